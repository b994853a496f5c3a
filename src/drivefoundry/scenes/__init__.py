"""Recorded scenes for people: listed, pictured and filmed."""
