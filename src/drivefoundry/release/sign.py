"""Write and read the signed metadata of a TUF repository: versions, expiry, atomic publication.

metadata/ holds N.root.json, N.targets.json, N.snapshot.json (consistent snapshots: a published version is never
overwritten) and timestamp.json, whose replacement is the moment of publication: files written before it are not yet
referenced. Each role has keys of its own (see `keys`)."""

# tuf and securesystemslib document these import paths but define no __all__
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from drivefoundry.release.keys import Keys, load_key, signers
from drivefoundry_car.durable import PUBLIC, replacing

__all__ = ["LIFE", "Published", "alone", "disk", "load_key", "load_root", "load_state", "write_root", "write_state"]

CHAIN = ("targets", "snapshot", "timestamp")
"""Each names the version of the one before it, so a signer of one also signs those after it."""
LIFE = {"root": timedelta(days=365), "targets": timedelta(days=180), "snapshot": timedelta(days=30)}
LIFE["timestamp"] = timedelta(days=7)
"""Validity of signatures by role. Cars refuse expired ones, so `renew` runs daily."""


class Published(NamedTuple):
    """The published metadata, as reached from timestamp.json."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]


def load_root(repo_dir: Path) -> Metadata[Root]:
    """Load the newest root metadata, verified through all older ones. ValueError for a damaged or foreign directory."""
    folder = repo_dir / "metadata"
    versions = sorted(version for path in folder.glob("*.root.json") if (version := number(path)) is not None)
    if not versions or not (folder / "timestamp.json").is_file():
        raise ValueError(f"{repo_dir}: no release repository (no metadata/timestamp.json); make one first")
    with readable(folder):
        trusted: Metadata[Root] | None = None
        for version in versions:
            root = Metadata[Root].from_file(str(folder / f"{version}.root.json"))
            for judge in filter(None, (trusted, root)):
                judge.signed.verify_delegate("root", root.signed_bytes, root.signatures)
            trusted = root
    assert trusted is not None, "there is a version"
    return trusted


def load_state(repo_dir: Path) -> Published:
    """Load the published metadata and verify every signature, length and hash. ValueError for a damaged or foreign
    directory.
    """
    folder, root = repo_dir / "metadata", load_root(repo_dir)
    with readable(folder):
        timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
        meta = timestamp.signed.snapshot_meta
        raw = (folder / f"{meta.version}.snapshot.json").read_bytes()
        meta.verify_length_and_hashes(raw)
        snapshot = Metadata[Snapshot].from_bytes(raw)
        meta = snapshot.signed.meta["targets.json"]
        raw = (folder / f"{meta.version}.targets.json").read_bytes()
        meta.verify_length_and_hashes(raw)
        targets = Metadata[Targets].from_bytes(raw)
        state = Published(root, targets, snapshot, timestamp)
        _verify(root, state, CHAIN)
    return state


def first_state(keys: Mapping[str, list[CryptoSigner]], thresholds: Mapping[str, int], now: datetime) -> Published:
    """The state before version 1: every role unsigned, nothing published."""
    root = Root(expires=now, consistent_snapshot=True)
    for role, held in keys.items():
        for signer in held:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = thresholds[role]
    targets, snapshot, timestamp = Targets(expires=now), Snapshot(expires=now), Timestamp(expires=now)
    for signed in (root, targets, snapshot, timestamp):
        signed.version = 0  # the first write makes it 1
    return Published(Metadata(root), Metadata(targets), Metadata(snapshot), Metadata(timestamp))


def write_root(repo_dir: Path, root: Metadata[Root], by: Iterable[CryptoSigner], now: datetime) -> None:
    """Sign the next version of the root metadata and publish it."""
    root.signed.version += 1
    root.signed.expires = now + LIFE["root"]
    _sign(root, by)
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    folder = repo_dir / "metadata"
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, "root", root)


def write_state(
    repo_dir: Path,
    keys: Keys,
    state: Published,
    now: datetime,
    roles: Iterable[str] = CHAIN,
    also: Mapping[str, list[CryptoSigner]] | None = None,
) -> None:
    """Sign the next version of some roles (the last ones of CHAIN) and publish them; timestamp comes last.

    also: further signatures for a role. Nothing is written if a key is missing, and every signature is verified against
    the root before the timestamp is replaced.
    """
    folder, root, todo = repo_dir / "metadata", state.root.signed, list(roles)
    by = {role: [*signers(keys, role, root), *(also or {}).get(role, [])] for role in todo}
    _, targets, snapshot, timestamp = state
    with disk(folder):
        for role in todo:
            md: Metadata[Any] = getattr(state, role)
            md.signed.version += 1
            md.signed.expires = now + LIFE[role]
            if role == "snapshot":
                snapshot.signed.meta["targets.json"] = _meta(targets)
            if role == "timestamp":
                timestamp.signed.snapshot_meta = _meta(snapshot)
            _sign(md, by[role])
            if role != "timestamp":
                _write(folder, role, md)
        _verify(state.root, state, todo)
        with replacing(folder / "timestamp.json", mode=PUBLIC) as file:
            file.write(timestamp.to_bytes())


def can_publish(keys: Keys, state: Published) -> None:
    """Check that all keys for a publication are at hand, before anything is written; else ValueError."""
    for role in CHAIN:
        signers(keys, role, state.root.signed)


def due(state: Published, role: str, now: datetime) -> bool:
    """Whether half of a role's validity has passed."""
    return expires(state, role) - now < LIFE[role] / 2


def expires(state: Published, role: str) -> datetime:
    """When a role's signatures expire."""
    signed: Any = getattr(state, role).signed
    return signed.expires


def number(path: Path) -> int | None:
    """Version number in a metadata file's name."""
    first = path.name.split(".")[0]
    return int(first) if first.isdecimal() else None


@contextmanager
def alone(repo_dir: Path) -> Iterator[None]:
    """Lock a repository: one publisher at a time."""
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
    """Turn a full or read-only disk into a ValueError of one line."""
    try:
        yield
    except OSError as e:
        raise ValueError(f"{path}: cannot write ({e.strerror or e}); the published release is unchanged") from e


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn damaged metadata into a ValueError of one line."""
    try:
        yield
    except (RepositoryError, KeyError, RecursionError) as e:
        raise ValueError(f"{folder}: damaged or not signed by its own keys ({e}); restore it from a copy") from e
    except OSError as e:
        raise ValueError(f"{folder}: {e.strerror} ({e.filename}); restore it from a copy") from e


def utc(now: datetime | None) -> datetime:
    """A time, by default now, in UTC."""
    return (now or datetime.now(UTC)).astimezone(UTC)


def _meta(md: Metadata[Any]) -> MetaFile:
    return MetaFile.from_data(md.signed.version, md.to_bytes(), ["sha256"])


def _verify(root: Metadata[Root], state: Published, roles: Iterable[str]) -> None:
    for role in roles:
        md: Metadata[Any] = getattr(state, role)
        root.signed.verify_delegate(role, md.signed_bytes, md.signatures)


def _sign(md: Metadata[Any], by: Iterable[CryptoSigner]) -> None:
    md.signatures.clear()
    for signer in by:
        md.sign(signer, append=True)


def _write(folder: Path, role: str, md: Metadata[Any]) -> None:
    with replacing(folder / f"{md.signed.version}.{role}.json", mode=PUBLIC) as file:
        file.write(md.to_bytes())
