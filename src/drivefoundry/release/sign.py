"""Role metadata in, signed files of a TUF repository out, and back: keys, versions, expiry, atomic publication.

The four top-level roles of The Update Framework 1.0 have an ed25519 key each, so that root and targets may be kept
offline. metadata/ holds N.root.json, N.targets.json, N.snapshot.json (consistent snapshots: a published version is
never overwritten) and timestamp.json, whose replacement is the moment of publication: what was written before it
belongs to nobody yet."""

# tuf and securesystemslib document these names where they are imported from here, but list no __all__
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from drivefoundry_car.durable import atomic

ROLES = ("root", "targets", "snapshot", "timestamp")
LIFE = {"root": timedelta(days=365), "targets": timedelta(days=180), "snapshot": timedelta(days=30)}
LIFE["timestamp"] = timedelta(days=7)
"""How long a signature holds. Cars refuse what has expired, so `renew` runs at least every few days."""


class State(NamedTuple):
    """The repository as published: what timestamp.json leads to."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]


def make_keys(keys_dir: Path) -> dict[str, CryptoSigner]:
    """A directory (0700) in which root.pem, targets.pem, snapshot.pem and timestamp.pem (0600) are made where
    missing.
    """
    with disk(keys_dir):
        keys_dir.mkdir(parents=True, exist_ok=True)
        keys_dir.chmod(0o700)
        for role in ROLES:
            path = keys_dir / f"{role}.pem"
            if not path.exists():
                with atomic(path) as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(CryptoSigner.generate_ed25519().private_bytes)
    return {role: load_key(keys_dir, role) for role in ROLES}


def load_key(keys_dir: Path, role: str) -> CryptoSigner:
    """One role's key. ValueError where it is missing, unreadable or open to others."""
    path = keys_dir / f"{role}.pem"
    if not path.is_file():
        raise ValueError(f"{path}: no key for {role}; give the directory in which the repository's keys were made")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: the key can be read by others; chmod 600 it")
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: not an ed25519 key in PEM; restore it from where it is kept") from e


def load_state(repo_dir: Path) -> State:
    """The published metadata, every signature, length and hash verified. ValueError for a damaged or foreign
    directory.
    """
    folder = repo_dir / "metadata"
    versions = sorted(int(p.name.split(".")[0]) for p in folder.glob("*.root.json"))
    if not versions or not (folder / "timestamp.json").is_file():
        raise ValueError(f"{repo_dir}: no release repository (no metadata/timestamp.json); make one first")
    try:
        root = Metadata[Root].from_file(str(folder / f"{versions[-1]}.root.json"))
        root.verify_delegate("root", root)
        timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
        meta = timestamp.signed.snapshot_meta
        raw = (folder / f"{meta.version}.snapshot.json").read_bytes()
        meta.verify_length_and_hashes(raw)
        snapshot = Metadata[Snapshot].from_bytes(raw)
        meta = snapshot.signed.meta["targets.json"]
        raw = (folder / f"{meta.version}.targets.json").read_bytes()
        meta.verify_length_and_hashes(raw)
        targets = Metadata[Targets].from_bytes(raw)
        for role, md in (("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
            root.signed.verify_delegate(role, md.signed_bytes, md.signatures)
    except RepositoryError as e:
        raise ValueError(f"{folder}: damaged or not signed by its own keys ({e}); restore it from a copy") from e
    except OSError as e:
        raise ValueError(f"{folder}: {e.strerror} ({e.filename}); restore it from a copy") from e
    return State(root, targets, snapshot, timestamp)


def first_state(keys: dict[str, CryptoSigner], now: datetime) -> State:
    """What comes before version 1: every role unsigned, nothing published."""
    root = Root(version=1, expires=_until("root", now), consistent_snapshot=True)
    for role, signer in keys.items():
        root.add_key(signer.public_key, role)
    targets, snapshot, timestamp = Targets(expires=now), Snapshot(expires=now), Timestamp(expires=now)
    for signed in (targets, snapshot, timestamp):
        signed.version = 0  # the first write makes it 1
    return State(Metadata(root), Metadata(targets), Metadata(snapshot), Metadata(timestamp))


def write_state(repo_dir: Path, keys_dir: Path, state: State, now: datetime, *, new_root: bool = False) -> State:
    """Sign the next version of targets, snapshot and timestamp (and root, if new) and publish them; timestamp comes
    last.

    Every signature is verified against the root before the timestamp takes its place; what is returned was read back.
    """
    folder = repo_dir / "metadata"
    root, targets, snapshot, timestamp = state
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if new_root:
            _write(folder, "root", root, load_key(keys_dir, "root"))
        targets.signed.version += 1
        targets.signed.expires = _until("targets", now)
        raw = _write(folder, "targets", targets, load_key(keys_dir, "targets"))
        snapshot.signed.version += 1
        snapshot.signed.expires = _until("snapshot", now)
        snapshot.signed.meta["targets.json"] = MetaFile.from_data(targets.signed.version, raw, ["sha256"])
        raw = _write(folder, "snapshot", snapshot, load_key(keys_dir, "snapshot"))
        timestamp.signed.version += 1
        timestamp.signed.expires = _until("timestamp", now)
        timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, raw, ["sha256"])
        timestamp.sign(load_key(keys_dir, "timestamp"))
        try:
            for role, md in (("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
                root.signed.verify_delegate(role, md.signed_bytes, md.signatures)
        except RepositoryError as e:
            raise ValueError(f"{keys_dir}: these keys are not the repository's ({e}); nothing was published") from e
        with atomic(folder / "timestamp.json") as file:
            file.write(timestamp.to_bytes())
    return load_state(repo_dir)


def due(state: State, role: str, now: datetime) -> bool:
    """Whether half of a role's life has passed."""
    signed: Any = getattr(state, role).signed
    return signed.expires - now < LIFE[role] / 2


@contextmanager
def alone(repo_dir: Path) -> Iterator[None]:
    """One publisher at a time."""
    with disk(repo_dir):
        file = (repo_dir / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ValueError(f"{repo_dir}: another release is being published; wait for it") from e
        yield


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """A full or read-only disk becomes one ValueError line."""
    try:
        yield
    except OSError as e:
        raise ValueError(f"{path}: cannot write ({e.strerror or e}); the published release is unchanged") from e


def utc(now: datetime | None) -> datetime:
    """A time, or the present one, in UTC."""
    return (now or datetime.now(UTC)).astimezone(UTC)


def _until(role: str, now: datetime) -> datetime:
    return now + LIFE[role]


def _write(folder: Path, role: str, md: Metadata[Any], signer: CryptoSigner) -> bytes:
    md.sign(signer)
    raw = md.to_bytes()
    with atomic(folder / f"{md.signed.version}.{role}.json") as file:
        file.write(raw)
    return raw
