"""Driving with the engine: a runtime that always has a plan, and the checks of its inputs, plans and liveness."""
