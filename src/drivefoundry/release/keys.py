"""Private keys of a release repository: creation, storage and lookup.

Root and targets keys decide what cars run and whom they trust: they are offline, on media that are plugged in for a
publication. Snapshot and timestamp keys only attest freshness: they are online, where `renew` runs daily.
"""

# tuf and securesystemslib document these import paths but define no __all__
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root

from drivefoundry_car.durable import replacing

OFFLINE, ONLINE = ("root", "targets"), ("snapshot", "timestamp")
ROLES = (*OFFLINE, *ONLINE)


@dataclass(frozen=True)
class Keys:
    """Directories of private keys: <role>.pem, and <role>-2.pem and so on if a role has several.

    offline: for root and targets, one directory per medium at hand; online: for snapshot and timestamp.
    """

    offline: Sequence[str | Path]
    online: str | Path

    @staticmethod
    def of(where: str | Path | Keys) -> Keys:
        """Keys in one directory, or in its subdirectories offline/ and online/."""
        if isinstance(where, Keys):
            return where
        path = Path(where)
        if (path / "offline").is_dir() or (path / "online").is_dir():
            return Keys((path / "offline",), path / "online")
        return Keys((path,), path)

    @staticmethod
    def apart(folder: Path) -> Keys:
        """offline/ and online/ below a directory."""
        return Keys((folder / "offline",), folder / "online")

    def folders(self, role: str) -> tuple[Path, ...]:
        """Directories of a role's keys."""
        return tuple(map(Path, self.offline if role in OFFLINE else (self.online,)))


def make(keys: Keys, role: str, count: int, *, again: bool = False) -> list[tuple[Path, CryptoSigner]]:
    """Create `count` keys for a role, distributed over its directories (0700), in files readable by their owner (0600).

    Existing keys are reused, unless again: then all are new, beside the old ones.
    """
    made, folders = [], keys.folders(role)
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
        each.chmod(0o700)
    for i in range(count):
        folder, turn = folders[i % len(folders)], i // len(folders)
        path = _free(folder, role) if again else folder / _name(role, turn + 1)
        if not path.exists():
            with replacing(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(CryptoSigner.generate_ed25519().private_bytes)
        made.append((path, load_key(folder, path.stem)))
    return made


def load_key(folder: Path, name: str) -> CryptoSigner:
    """Load the key <name>.pem. ValueError if it is missing, unreadable or readable by others."""
    path = folder / f"{name}.pem"
    if not path.is_file():
        raise ValueError(f"{path}: no such key; give the directory in which the repository's keys were made")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: the key can be read by others; chmod 600 it")
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: not an ed25519 key in PEM; restore it from its backup") from e


def at_hand(keys: Keys, role: str, root: Root) -> list[CryptoSigner]:
    """A role's keys, according to a root, whose files are at hand."""
    found = {key.public_key.keyid: key for path in _files(keys, role) for key in [load_key(path.parent, path.stem)]}
    return [key for keyid, key in found.items() if keyid in root.roles[role].keyids]


def signers(keys: Keys, role: str, root: Root) -> list[CryptoSigner]:
    """Enough of a role's keys to sign for it. ValueError says how many there are and how many are needed."""
    found, needed = at_hand(keys, role, root), root.roles[role].threshold
    if len(found) >= needed:
        return found
    where = ", ".join(map(str, keys.folders(role)))
    kept = "plug in the offline medium that has it" if role in OFFLINE else "give the directory that has it"
    if not _files(keys, role):
        raise ValueError(f"{where}: no key for {role}; {kept}")
    if not found:
        raise ValueError(f"{where}: these {role} keys are not the repository's; nothing was published")
    raise ValueError(f"{where}: {len(found)} of the {needed} {role} keys that must sign; {kept}")


def _files(keys: Keys, role: str) -> list[Path]:
    names = (f"{role}.pem", f"{role}-*.pem")
    return sorted({file for folder in keys.folders(role) for name in names for file in folder.glob(name)})


def _name(role: str, number: int) -> str:
    return f"{role}.pem" if number == 1 else f"{role}-{number}.pem"


def _free(folder: Path, role: str) -> Path:
    number = 1
    while (folder / _name(role, number)).exists():
        number += 1
    return folder / _name(role, number)
