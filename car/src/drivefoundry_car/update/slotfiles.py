"""The files of two slots: what a slot holds, whether it is complete and signed, and how the current one is switched.

On disk: a/ and b/ (each release.json, verdict.json, engine/...), `current` -> a or b, next/ (being fetched), signed/
(see `proof`). Two locks: an update holds `.fetch.lock` from its first to its last byte, and `.lock` only while the
slots or the records change; `boot` holds `.lock` while it chooses, so a boot never waits for a download.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivefoundry_car.durable import sync
from drivefoundry_car.update import proof

FIX = "run an update"
LEFTOVER = re.compile(r"tmp[a-z0-9_]{8}|\..+\.\d+(-\d+\.part)?")
"""Name patterns of files that a killed update leaves in our folders."""
ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Installed:
    """A release in a slot. engine: the directory to load; release: its id; passed: its verdict's gates passed."""

    slot: str
    engine: Path
    release: str
    name: str
    passed: bool


class Busy(ValueError):
    """Another process is changing the slots."""


class SlotFiles:
    """Two slots on disk. root: the root.json that the car was shipped with."""

    def __init__(self, folder: str | Path, root: bytes | None = None):
        self.folder, self.root = Path(folder), root
        self.folder.mkdir(parents=True, exist_ok=True)
        self.next = self.folder / "next"
        self._held = threading.local()

    def current(self) -> Installed | None:
        """The running release, None before the first one. ValueError if its files are damaged."""
        slot = self.slot()
        return None if slot is None else self.read(slot)

    def slot(self) -> str | None:
        """The slot that `current` points to, if any."""
        link = self.folder / "current"
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link}: must be a link to a or b; copy the slots with their links")
        slot = os.readlink(link) if link.is_symlink() else None
        return slot if slot in ("a", "b") else None

    def spare(self) -> str:
        """The slot that is not in use."""
        return other(self.slot() or "b")

    def id_in(self, slot: str) -> str:
        """The release that a slot claims to hold, signed or not; empty if it has no valid claim."""
        release = proof.load_object(self.folder / slot / "release.json").get("id")
        return release if isinstance(release, str) and ID.fullmatch(release) else ""

    def read(self, slot: str) -> Installed:
        """Read the release in a slot. ValueError unless its release.json is the signed one."""
        file = self.folder / slot / "release.json"
        said, raw = described(file)
        release, name, passed = said.get("id"), said.get("name"), said.get("passed")
        if not (isinstance(release, str) and ID.fullmatch(release) and isinstance(name, str) and type(passed) is bool):
            raise ValueError(f"{file}: no valid id, name and passed; {FIX}")
        if self.root is not None or (self.folder / proof.FOLDER).exists():  # slots of an older layout have none
            proof.check(self.folder, release, raw, self.root)
        return Installed(slot, file.parent / "engine", release, name, passed)

    def whole(self, slot: str) -> Installed:
        """Read the release in a slot. ValueError unless all of its files are the signed ones."""
        path, held = self.folder / slot, self.read(slot)
        for name, digest in files_of(path / "release.json").items():
            try:
                with (path / name).open("rb") as stream:
                    same = hashlib.file_digest(stream, "sha256").hexdigest() == digest
            except OSError as e:
                raise ValueError(f"{path / name}: {e.strerror}; {FIX}") from e
            if not same:
                raise ValueError(f"{path / name}: has changed since it was installed; {FIX}")
        return held

    def holds(self, slot: str, release: str) -> bool:
        """Whether a slot contains this release completely, as signed."""
        try:
            return self.whole(slot).release == release
        except ValueError:
            return False

    def runs(self, release: str) -> bool:
        """Whether this release is current and complete."""
        slot = self.slot()
        return slot is not None and self.holds(slot, release)

    def activate(self, slot: str) -> Installed:
        """Make a slot current, atomically."""
        aside = self.folder / "current.next"
        aside.unlink(missing_ok=True)
        aside.symlink_to(slot)
        os.replace(aside, self.folder / "current")
        sync(self.folder)
        return self.read(slot)

    def fill(self, slot: str) -> None:
        """Replace a slot that is not current by next/."""
        old = self.folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        if (self.folder / slot).exists():
            os.replace(self.folder / slot, old)
        os.replace(self.next, self.folder / slot)
        sync(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def alone(self, wait_s: float = 0.0) -> Iterator[None]:
        """Lock the slots for changes. Busy if another process holds the lock for longer than wait_s."""
        if getattr(self._held, "yes", False):  # this thread already holds the lock
            yield
            return
        with _locked(self.folder / ".lock", wait_s, "the slots are in use; try again"):
            self._held.yes = True
            try:
                yield
            finally:
                self._held.yes = False

    @contextmanager
    def fetching(self, wait_s: float) -> Iterator[None]:
        """Lock for one update at a time; first sweeps remains of killed ones."""
        with _locked(self.folder / ".fetch.lock", 0, "another update is running; wait for it"):
            with self.alone(wait_s):
                sweep(self.folder)
                sweep(self.folder / proof.FOLDER)
            yield


def other(slot: str) -> str:
    """The other slot."""
    return "b" if slot == "a" else "a"


def described(release_json: Path) -> tuple[dict[str, Any], bytes]:
    """Read a release.json's object and bytes. ValueError if it is missing or not a JSON object."""
    try:
        raw = release_json.read_bytes()
        said = json.loads(raw)
    except (OSError, ValueError, RecursionError) as e:
        raise ValueError(f"{release_json}: contains no complete release ({type(e).__name__}); {FIX}") from e
    if not isinstance(said, dict):
        raise ValueError(f"{release_json}: must be a JSON object, got {type(said).__name__}; {FIX}")
    return said, raw


def files_of(release_json: Path) -> dict[str, str]:
    """Names (relative to the release's directory) and SHA-256 of a release's files."""
    files = described(release_json)[0].get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError(f"{release_json}: no list of files with their SHA-256; {FIX}")
    for name in files:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ValueError(f"{release_json}: file name {name} leads out of the release")
    return files


def sweep(folder: Path) -> None:
    """Remove what killed updates left in our folder. No one else may be writing there."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if LEFTOVER.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, wait_s: float, busy: str) -> Iterator[None]:
    until = time.monotonic() + wait_s
    try:
        file = path.open("w")
    except OSError as e:
        raise ValueError(f"{path}: cannot be opened for writing ({e.strerror}); it must be a plain file") from e
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() >= until:
                    raise Busy(f"{path.parent}: {busy}") from e
                time.sleep(0.02)
        yield
