"""Clips: recorded in a running car around each trigger, or cut later from a stored drive."""
