"""The pictures and figures of docs/gradients-through-time.md: `python -m bench.gradients`."""
