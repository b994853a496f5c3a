"""Campaigns over stored drives: what fires, what a car would upload, and what each campaign yields."""
