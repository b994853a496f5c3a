"""Verdict in, signed Release out: see `docs/release.md`."""

from drivefoundry.release.keys import Keys
from drivefoundry.release.publish import Release, Rollout, create_repository, publish, releases, verify
from drivefoundry.release.renewal import Renewal, Rotation, renew, rotate
from drivefoundry.release.rollout import halt, resume, roll_back, rollouts, stage

__all__ = [
    "Keys",
    "Release",
    "Renewal",
    "Rollout",
    "Rotation",
    "create_repository",
    "halt",
    "publish",
    "releases",
    "renew",
    "resume",
    "roll_back",
    "rollouts",
    "rotate",
    "stage",
    "verify",
]
