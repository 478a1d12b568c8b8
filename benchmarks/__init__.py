"""Benchmarks: `python -m benchmarks COMMAND`. What they measure and how is in docs/performance.md."""
