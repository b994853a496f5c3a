"""Embodiment, model inputs (ego motion and route as numbers) and the codec between plans and action codes."""
