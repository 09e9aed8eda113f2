"""Measurements: commands that print a table and write JSON. Run them with `python -m benchmarks.NAME`."""
