"""Scenes and Episodes from clips: what happened, what was decided, and why."""
