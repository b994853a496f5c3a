"""Scenes for people: lists, pictures and films."""
