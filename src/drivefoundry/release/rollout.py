"""Which cars run which release: staged roll-out, halt, resume and roll-back. Each is one signed publication."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from drivefoundry.release import sign
from drivefoundry.release.keys import Keys
from drivefoundry.release.publish import Cohort, Release, all_of, channel_of, point, release_of, write_channel


def stage(
    repo_dir: str | Path,
    keys_dir: str | Path | Keys,
    cohort: str,
    rollout_percent: int,
    *,
    now: datetime | None = None,
) -> Cohort:
    """Widen (or narrow) the roll-out of a cohort's current release. Cars chosen at 10 % are among those at 50 %."""
    if not 0 <= rollout_percent <= 100:
        raise ValueError(f"rollout_percent: must be 0 to 100, got {rollout_percent}")
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        was = _entry(repo, state, cohort)
        if was.halted:
            raise ValueError(f"{repo}: the roll-out to cohort {cohort!r} is halted; resume it first")
        made = replace(was, rollout_percent=rollout_percent)
        if rollout_percent == 100:
            made = replace(made, previous=None)
        return _put(repo, keys_dir, state, cohort, made, now)


def halt(repo_dir: str | Path, keys_dir: str | Path | Keys, cohort: str, *, now: datetime | None = None) -> Cohort:
    """Stop a cohort's roll-out where it is: cars that run the release keep it, no further car gets it.

    The others keep the previous release. To withdraw it from cars that have it, roll back.
    """
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        was = _entry(repo, state, cohort)
        if was.halted:
            raise ValueError(f"{repo}: the roll-out to cohort {cohort!r} is already halted")
        return _put(repo, keys_dir, state, cohort, replace(was, halted=True), now)


def resume(repo_dir: str | Path, keys_dir: str | Path | Keys, cohort: str, *, now: datetime | None = None) -> Cohort:
    """Resume a halted roll-out at its percentage."""
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        was = _entry(repo, state, cohort)
        if not was.halted:
            raise ValueError(f"{repo}: the roll-out to cohort {cohort!r} is not halted")
        return _put(repo, keys_dir, state, cohort, replace(was, halted=False), now)


def roll_back(repo_dir: str | Path, keys_dir: str | Path | Keys, to: str, *, now: datetime | None = None) -> Release:
    """Make a former release (its id) current again for all cars of its cohort, in newer metadata that every car
    accepts. ValueError if it is already current.
    """
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        release = release_of(repo, state, to)
        if release is None:
            held = ", ".join(r.id for r in all_of(repo, state)) or "none"
            raise ValueError(f"{repo}: no release {to!r}; it holds {held}")
        was = channel_of(repo, state).cohorts.get(release.cohort)
        if was is not None and was.release == to:
            at = "halted, resume it" if was.halted else f"at {was.rollout_percent} %, stage it"
            more = "" if was.rollout_percent == 100 and not was.halted else f" (its roll-out is {at})"
            raise ValueError(f"{repo}: release {to} is current for cohort {release.cohort!r} already{more}")
        point(repo, Keys.of(keys_dir), state, release.cohort, to, 100, sign.utc(now))
    return release


def rollouts(repo_dir: str | Path) -> dict[str, Cohort]:
    """cohort -> its Rollout."""
    repo = Path(repo_dir)
    return channel_of(repo, sign.load_state(repo)).cohorts


def _entry(repo: Path, state: sign.Published, cohort: str) -> Cohort:
    entry = channel_of(repo, state).cohorts.get(cohort)
    if entry is None:
        raise ValueError(f"{repo}: cohort {cohort!r} has no release; publish one to it, or give a cohort that has one")
    return entry


def _put(
    repo: Path, keys_dir: str | Path | Keys, state: sign.Published, cohort: str, made: Cohort, now: datetime | None
) -> Cohort:
    channel = channel_of(repo, state)
    channel.cohorts[cohort] = made
    write_channel(repo, Keys.of(keys_dir), state, channel, sign.utc(now))
    return made
