"""Cameras, bird's-eye views and films of simulated scenes."""
