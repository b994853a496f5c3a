"""A simulated cluster: which share of its time does useful work."""
