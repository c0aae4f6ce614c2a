"""Proof that it learns: `python -m bench.learning` trains on published tasks and writes LEARNING.md."""
