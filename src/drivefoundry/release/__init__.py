"""Publish engines as signed releases: see `docs/release.md`."""

from drivefoundry.release.keys import Keys
from drivefoundry.release.publish import Cohort, Release, create_repository, publish, releases, verify
from drivefoundry.release.renewal import Renewal, Role, Rotation, renew, roles, rotate
from drivefoundry.release.rollout import halt, resume, roll_back, rollouts, stage

__all__ = [
    "Cohort",
    "Keys",
    "Release",
    "Renewal",
    "Role",
    "Rotation",
    "create_repository",
    "halt",
    "publish",
    "releases",
    "renew",
    "resume",
    "roles",
    "roll_back",
    "rollouts",
    "rotate",
    "stage",
    "verify",
]
