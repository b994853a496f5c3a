"""Interfaces of the simulator for other software: Gymnasium and AlpaSim."""
