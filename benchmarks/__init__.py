"""Slow and comparing work: each module is run by `python -m` and ends with one line of JSON."""
