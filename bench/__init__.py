"""Benchmarks: `python -m bench` prints and writes the tables, `pytest bench` times single questions."""
