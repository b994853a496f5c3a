"""Slow measurements and comparisons: run each module with `python -m`; it ends with one line of JSON."""
