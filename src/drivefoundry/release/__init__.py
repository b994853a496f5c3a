"""Verdict in, signed Release out: see `docs/release.md`."""

from drivefoundry.release.publish import (
    Release,
    Rollout,
    create_repository,
    publish,
    releases,
    renew,
    roll_back,
    rollouts,
    stage,
    verify,
)

__all__ = [
    "Release",
    "Rollout",
    "create_repository",
    "publish",
    "releases",
    "renew",
    "roll_back",
    "rollouts",
    "stage",
    "verify",
]
