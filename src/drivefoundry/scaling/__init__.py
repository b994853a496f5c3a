"""Scaling: laws of model size, data and compute; a planner of training runs; a simulated cluster."""
