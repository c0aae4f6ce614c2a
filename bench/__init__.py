"""Benchmarks: `python -m bench` measures the tables of RESULTS.md, `pytest bench` times single questions."""
