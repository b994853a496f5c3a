"""A simulated cluster, and the share of its time that does useful work."""
