"""A vehicle in, its short-lived token out; and back."""

from __future__ import annotations


def issue_token(secret: str, vehicle: str, ttl: float = 3600.0) -> str:
    """A signed JWT (HS256) whose subject is the vehicle, valid for ttl seconds."""
    raise NotImplementedError
