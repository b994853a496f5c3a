"""Releases in the car: fetched, proven, tested and booted, and rolled back when one fails."""
