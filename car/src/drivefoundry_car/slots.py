"""Verified release directories in, the one that the car runs out: A/B slots, self test, rollback.

On disk: a/ and b/ (each release.json, verdict.json, engine/...), `current` -> a or b, next/ (what is being fetched),
refused.json (releases that must not run, and why), testing (the release whose self test is under way). `current` is
replaced in one step, and only after the new release has passed its test.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from drivefoundry_car.durable import sync

SELF_TEST = "selftest.npz"
"""Recorded inputs and answer beside the engine's files: frames, ego, route, points."""
SELF_TEST_M = 0.1
"""An answer further than this from the recorded one is another answer, m."""


@dataclass(frozen=True)
class Installed:
    """A release in a slot. engine: the directory to load; release: its id; passed: its verdict's gates passed."""

    slot: str
    engine: Path
    release: str
    name: str
    passed: bool


class Testable(Protocol):
    """The part of an engine that the self test needs; shapes as in `runtime.Model`."""

    def plan(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def record_self_test(engine: Testable, path: Path, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> None:
    """Run the engine on a few fixed inputs and keep its answer in its directory, for `self_test` in every car.

    frames (B, 2, H, W, 3) uint8, ego (B, 4, 3), route (B, 12); path is the engine's directory.
    """
    points, _ = engine.plan(frames, ego, route)
    with atomic(path / SELF_TEST) as file:
        np.savez_compressed(file, frames=frames, ego=ego, route=route, points=points)


def self_test(path: Path) -> None:
    """Engine directory in; ValueError unless the engine loads and gives its recorded answer (where one is recorded).

    Up to a quarter of the recorded inputs may differ: another CPU may round a near tie between two codes the other way.
    """
    from drivefoundry_car.engine import Engine

    engine = Engine(path)
    if not (path / SELF_TEST).exists():
        return
    try:
        with np.load(path / SELF_TEST, allow_pickle=False) as kept:
            frames, ego, route, want = (kept[k] for k in ("frames", "ego", "route", "points"))
    except KeyError as e:
        raise ValueError(f"{path / SELF_TEST}: no {e.args[0]}; record the self test anew") from e
    points, _ = engine.plan(frames, ego, route)
    if points.shape != want.shape or not np.isfinite(points).all():
        raise ValueError(f"{path}: the answer to the recorded input has shape {points.shape} or is not finite")
    off = np.abs(points[..., :2] - want[..., :2]).max((1, 2)) > SELF_TEST_M
    if off.sum() > len(off) // 4:
        raise ValueError(f"{path}: {off.sum()} of {len(off)} answers differ from the recorded by > {SELF_TEST_M} m")


class Slots:
    """The two slots of one car. test raises ValueError for an engine directory that must not run."""

    def __init__(self, folder: str | Path, test: Callable[[Path], None] = self_test):
        self.folder, self.test = Path(folder), test
        self.folder.mkdir(parents=True, exist_ok=True)
        self.next = self.folder / "next"

    def current(self) -> Installed | None:
        """The release that runs, None before the first one. ValueError where its files are damaged."""
        slot = self._slot()
        return None if slot is None else self.read(slot)

    def read(self, slot: str) -> Installed:
        """What a slot holds. ValueError where that is no whole release."""
        path = self.folder / slot
        try:
            release = json.loads((path / "release.json").read_text())
            return Installed(slot, path / "engine", release["id"], release["name"], release["passed"])
        except (OSError, json.JSONDecodeError, KeyError) as e:
            raise ValueError(f"{path}: holds no whole release ({type(e).__name__}: {e}); run an update") from e

    def boot(self) -> Installed:
        """What to do before driving: the current release if its files are whole and it passes its test, else the other
        slot's, which is then the current one. ValueError where neither can run.
        """
        with self.alone():
            slot = self._slot()
            if slot is None:
                raise ValueError(f"{self.folder}: no release is installed; run an update")
            try:
                return self._fit(slot)
            except ValueError as e:
                return self._other(slot, f"{e}")

    def rollback(self) -> Installed:
        """Run the other slot's release from now on, and do not install the present one again. ValueError where that
        one cannot run; nothing has changed then.
        """
        with self.alone():
            slot = self._slot()
            if slot is None:
                raise ValueError(f"{self.folder}: no release is installed; nothing to roll back")
            left = self.read(slot)
            now = self._other(slot, "to be rolled back")
            self._refuse(left.release, "rolled back")
            return now

    # installing

    def runs(self, release: str) -> bool:
        """Whether this release is the current one, and whole."""
        slot = self._slot()
        return slot is not None and self.holds(slot, release)

    def spare(self) -> str:
        """The slot that is not in use."""
        return "b" if self._slot() == "a" else "a"

    def holds(self, slot: str, release: str) -> bool:
        """Whether a slot has this release whole."""
        try:
            held = self.read(slot)
            self._check(slot)
        except ValueError:
            return False
        return held.release == release

    def install(self, release: str, fetch: Callable[[Path], None]) -> Installed:
        """Test a release and make it the current one. fetch fills next/ with verified files, where no slot has it yet.

        ValueError, with `current` as it was, for a refused release and for one that fails its test.
        """
        why = self._refused().get(release)
        if why is not None:
            raise ValueError(f"release {release} was refused by this car: {why}; publish a mended one")
        spare = self.spare()
        if self.holds(spare, release):
            self._try(release, self.folder / spare / "engine")
            return self._activate(spare)
        self.next.mkdir(exist_ok=True)
        fetch(self.next)
        self._try(release, self.next / "engine")
        old = self.folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        if (self.folder / spare).exists():
            os.replace(self.folder / spare, old)
        os.replace(self.next, self.folder / spare)
        sync(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        return self._activate(spare)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time may change the slots. A release whose test took the process down is refused from here on."""
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise ValueError(f"{self.folder}: another update is running; wait for it") from e
            testing = self.folder / "testing"
            if testing.exists():
                self._refuse(testing.read_text(), "its self test did not come to an end")
                testing.unlink()
            yield

    # inside

    def _slot(self) -> str | None:
        link = self.folder / "current"
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link}: must be a link to a or b; copy the slots with their links")
        return os.readlink(link) if link.is_symlink() else None

    def _check(self, slot: str) -> None:
        """ValueError unless the slot's files are those that were signed."""
        path = self.folder / slot
        for name, digest in files_of(path / "release.json").items():
            file = path / name
            if not file.is_file():
                raise ValueError(f"{file}: missing; run an update")
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise ValueError(f"{file}: has changed since it was installed; run an update")

    def _fit(self, slot: str) -> Installed:
        """The release of a slot that may run. ValueError says why it must not."""
        held = self.read(slot)
        why = self._refused().get(held.release)
        if why is not None:
            raise ValueError(f"release {held.release} was refused by this car: {why}")
        self._check(slot)
        self._try(held.release, held.engine)
        return held

    def _other(self, slot: str, why: str) -> Installed:
        """Leave a slot for the other one, if that may run."""
        other = self.spare()
        try:
            self._fit(other)
        except ValueError as e:
            raise ValueError(f"slot {slot} must not run ({why}), nor may slot {other} ({e})") from e
        return self._activate(other)

    def _activate(self, slot: str) -> Installed:
        aside = self.folder / "current.next"
        aside.unlink(missing_ok=True)
        aside.symlink_to(slot)
        os.replace(aside, self.folder / "current")
        sync(self.folder)
        return self.read(slot)

    def _try(self, release: str, engine: Path) -> None:
        """Run the self test; a failure is remembered. The mark outlives a process that the engine takes down."""
        testing = self.folder / "testing"
        with contextlib.suppress(OSError), atomic(testing) as file:  # a full disk must not keep a good car from driving
            file.write(release.encode())
        try:
            self.test(engine)
        except ValueError as e:
            self._refuse(release, str(e))
            testing.unlink(missing_ok=True)
            raise ValueError(f"release {release} fails its self test: {e}") from e
        testing.unlink(missing_ok=True)

    def _refused(self) -> dict[str, str]:
        try:
            return json.loads((self.folder / "refused.json").read_text())
        except FileNotFoundError:
            return {}

    def _refuse(self, release: str, why: str) -> None:
        with atomic(self.folder / "refused.json") as file:
            file.write(json.dumps({**self._refused(), release: why}, indent=1).encode())


def files_of(release_json: Path) -> dict[str, str]:
    """Names (below the release's directory) and SHA-256 of a release's files."""
    try:
        files: dict[str, str] = json.loads(release_json.read_text())["files"]
    except (OSError, json.JSONDecodeError, KeyError) as e:
        raise ValueError(f"{release_json}: no list of files ({type(e).__name__}: {e}); run an update") from e
    for name in files:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{release_json}: file name {name} leads out of the release")
    return files


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it takes the path's place, synced to disk, when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)
