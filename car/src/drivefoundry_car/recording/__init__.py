"""Clips: recorded in a running car around each trigger, or cut afterwards from a stored drive."""
