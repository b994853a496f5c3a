"""Interfaces by which others use the simulator: Gymnasium and AlpaSim."""
