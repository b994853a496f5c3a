"""Clip in, Scene and Episodes out: what happened, what was decided, and why."""
