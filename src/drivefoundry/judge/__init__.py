"""Scores of plans and rollouts, with intervals, and verdicts."""
