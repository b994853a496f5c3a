"""Clips in, fewer and better clips out: gates, near-duplicates, rare manoeuvres, splits that do not leak."""
