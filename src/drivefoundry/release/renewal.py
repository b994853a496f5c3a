"""Renewal of signatures before they expire, and replacement of keys by a new root."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from drivefoundry.release import sign
from drivefoundry.release.keys import ONLINE, ROLES, Keys, at_hand, make, signers

FAR = 1_000_000_000
"""A version that no honest publisher reaches: a thief has raised it so that honest metadata looks old."""


@dataclass(frozen=True)
class Renewal:
    """Result of a renewal. signed: roles with a new version; waiting: roles that are due but whose keys are offline,
    and when cars will refuse them. True if anything was signed."""

    signed: tuple[str, ...]
    waiting: dict[str, datetime]

    def __bool__(self) -> bool:
        return bool(self.signed)


@dataclass(frozen=True)
class Rotation:
    """Result of a rotation. version: the new root's; retired: role -> ids of the revoked keys; made: new files."""

    version: int
    retired: dict[str, tuple[str, ...]]
    made: tuple[Path, ...]


@dataclass(frozen=True)
class Role:
    """One role as published. threshold: required signatures; keys: id -> whether its file is at hand."""

    version: int
    expires: datetime
    threshold: int
    keys: dict[str, bool]


def roles(repo_dir: str | Path, keys_dir: str | Path | Keys) -> dict[str, Role]:
    """All roles of a repository by name."""
    state, keys = sign.load_state(Path(repo_dir)), Keys.of(keys_dir)
    root, out = state.root.signed, {}
    for role in ROLES:
        there = {key.public_key.keyid for key in at_hand(keys, role, root)}
        held = {keyid: keyid in there for keyid in root.roles[role].keyids}
        version = getattr(state, role).signed.version
        out[role] = Role(version, sign.expires(state, role), root.roles[role].threshold, held)
    return out


def renew(repo_dir: str | Path, keys_dir: str | Path | Keys, *, now: datetime | None = None) -> Renewal:
    """Renew signatures past half their lifetime, so that they do not expire. Run it daily.

    Only due roles are signed, and those that must name their new version: the timestamp alone needs its own key only.
    Root and targets, if due, wait until their keys are available.
    """
    repo, keys, at = Path(repo_dir), Keys.of(keys_dir), sign.utc(now)
    with sign.alone(repo):
        state = sign.load_state(repo)
        root = state.root.signed
        due = [role for role in ROLES if sign.due(state, role, at)]
        lacking = [r for r in due if r not in ONLINE and len(at_hand(keys, r, root)) < root.roles[r].threshold]
        todo = [role for role in due if role not in lacking]
        chain = next((sign.CHAIN[i:] for i, role in enumerate(sign.CHAIN) if role in todo), ())
        if chain:
            sign.write_state(repo, keys, state, at, chain)
        if "root" in todo:
            sign.write_root(repo, state.root, signers(keys, "root", root), at)
    signed = (*(["root"] if "root" in todo else []), *chain)
    return Renewal(signed, {role: sign.expires(state, role) for role in lacking})


def rotate(
    repo_dir: str | Path,
    keys_dir: str | Path | Keys,
    roles: Collection[str],
    *,
    quorum: Mapping[str, tuple[int, int]] | None = None,
    only: Collection[str] = (),
    now: datetime | None = None,
) -> Rotation:
    """Replace the keys of some roles in a new root version; the old keys are revoked.

    Needs the root keys, and those of every role that signs again. Snapshot and timestamp go together, because their
    keys are stored together and stolen together. Cars discard what the replaced keys have signed, including versions
    that a thief has raised; what the repository offers follows from its newest signed targets.

    quorum: new role -> (signatures, keys), by default unchanged; only: ids of the keys to replace, by default all of
    the roles'. If it is killed, run it again.
    """
    repo, keys, at = Path(repo_dir), Keys.of(keys_dir), sign.utc(now)
    todo = _roles(roles)
    with sign.alone(repo):
        before = sign.load_root(repo)
        by = signers(keys, "root", before.signed)
        _check(before.signed, todo, quorum or {}, only)
        state = _salvaged(repo, before)
        root = Metadata(deepcopy(before.signed))
        made = {role: _replace(keys, root.signed, role, (quorum or {}).get(role), only) for role in todo}
        chain = next((sign.CHAIN[i:] for i, role in enumerate(sign.CHAIN) if role in todo), ())
        if chain:  # also signed by the old keys, so that it is valid before and after the new root appears
            also = {role: _old(keys, role, before.signed, root.signed) for role in chain}
            sign.write_state(repo, keys, state._replace(root=root), at, chain, also)
        sign.write_root(repo, root, [*by, *_old(keys, "root", root.signed, before.signed)], at)
        sign.load_state(repo)
    retired = {r: tuple(sorted({*before.signed.roles[r].keyids} - {*root.signed.roles[r].keyids})) for r in todo}
    return Rotation(root.signed.version, retired, tuple(path for files in made.values() for path in files))


def _roles(roles: Collection[str]) -> list[str]:
    unknown = set(roles) - {*ROLES, "online"}
    if unknown or not roles:
        raise ValueError(f"roles: {', '.join(unknown) or 'none'}; give any of root, targets and online")
    wanted = set(roles) | (set(ONLINE) if {"online", *ONLINE} & set(roles) else set())
    return [role for role in ROLES if role in wanted]


def _check(root: Root, roles: Collection[str], quorum: Mapping[str, tuple[int, int]], only: Collection[str]) -> None:
    """ValueError if a rotation refers to unknown roles or keys."""
    unknown = set(only) - {keyid for role in roles for keyid in root.roles[role].keyids}
    if unknown:
        raise ValueError(f"only: {', '.join(sorted(unknown))}: not a key of {', '.join(roles)}")
    if set(quorum) - set(roles):
        raise ValueError(f"quorum: {', '.join(set(quorum) - set(roles))} is not among the roles to rotate")


def _replace(keys: Keys, root: Root, role: str, quorum: tuple[int, int] | None, only: Collection[str]) -> list[Path]:
    """Replace a role's keys in a root under construction; return the files of the new keys."""
    old = root.roles[role].keyids
    retired = [keyid for keyid in old if not only or keyid in only]
    needed, count = quorum or (root.roles[role].threshold, len(old))
    kept = len(old) - len(retired)
    if not 1 <= needed <= count or count < kept:
        raise ValueError(f"quorum of {role}: {needed} of {count} keys, {kept} of them kept; more signatures than keys")
    for keyid in retired:
        root.revoke_key(keyid, role)
    with sign.disk(Path(keys.online)):
        made = make(keys, role, count - kept, again=True)
    for _, key in made:
        root.add_key(key.public_key, role)
    root.roles[role].threshold = needed
    return [path for path, _ in made]


def _old(keys: Keys, role: str, one: Root, other: Root) -> list[CryptoSigner]:
    """A role's keys in one root but not the other, if their files are at hand."""
    return [key for key in at_hand(keys, role, one) if key.public_key.keyid not in other.roles[role].keyids]


def _salvaged(repo: Path, root: Metadata[Root]) -> sign.Published:
    """The newest targets signed by the root's keys, for republication, regardless of the timestamp."""
    folder = repo / "metadata"
    targets = _newest(folder, "targets", Targets, root)
    if targets is None:
        raise ValueError(f"{folder}: no targets metadata signed by the repository's keys; restore it from a copy")
    snapshot, timestamp = Metadata(Snapshot()), Metadata(Timestamp())
    snapshot.signed.version = max(_versions(folder, "snapshot"), default=0)
    try:
        seen = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed.version
    except RepositoryError:
        seen = FAR
    timestamp.signed.version = seen if seen < FAR else snapshot.signed.version
    return sign.Published(root, targets, snapshot, timestamp)


def _newest(folder: Path, role: str, kind: type[Targets], root: Metadata[Root]) -> Metadata[Targets] | None:
    for version in sorted(_versions(folder, role), reverse=True):
        try:
            found = Metadata[kind].from_file(str(folder / f"{version}.{role}.json"))
            root.signed.verify_delegate(role, found.signed_bytes, found.signatures)
        except RepositoryError:
            continue
        if found.signed.version == version:
            return found
    return None


def _versions(folder: Path, role: str) -> list[int]:
    named = [sign.number(path) for path in folder.glob(f"*.{role}.json")]
    return [version for version in named if version is not None and version < FAR]
