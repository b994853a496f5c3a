"""Signed metadata that the car stores to verify an installed release without the network.

signed/<release>.json, outside the slots: {"roots": [...], "targets": {...}}, the TUF targets metadata that lists the
release and the chain of root metadata to the keys that signed it. Signatures are verified each time; expiry is not,
because a car that was offline for a year must still start.
"""

# tuf documents these import paths but defines no __all__
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from drivefoundry_car.durable import write_json

FOLDER = "signed"
FIX = "run an update"


def target_path(release: str, name: str) -> str:
    """The TUF target path of one file of a release."""
    return f"releases/{release}/{name}"


def proof_of(metadata_dir: Path) -> dict[str, Any]:
    """The proof for every release that the verified metadata in a TUF client's directory lists."""
    newest = int(json.loads((metadata_dir / "root.json").read_text())["signed"]["version"])
    roots = [metadata_dir / "root_history" / f"{version}.root.json" for version in range(1, newest + 1)]
    return {
        "roots": [json.loads(path.read_text()) for path in roots if path.is_file()],
        "targets": json.loads((metadata_dir / "targets.json").read_text()),
    }


def keep(slots: Path, release: str, proof: dict[str, Any]) -> None:
    """Store a release's proof, unless it is already stored."""
    folder = slots / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{release}.json"
    if load_object(path) != proof:
        write_json(path, proof)


def check(slots: Path, release: str, release_json: bytes, root: bytes | None) -> None:
    """Check that the bytes of a release's release.json are the signed ones; else ValueError.

    root: the root.json that the car was shipped with; None trusts the first one in the proof, which is as secure as the
    signed/ folder.
    """
    path = slots / FOLDER / f"{release}.json"
    proof = load_object(path)
    if not proof:
        raise ValueError(f"{path}: no signed list of release {release}'s files; {FIX}")
    try:
        target = _listed(proof, release, root)
        target.verify_length_and_hashes(release_json)
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(f"release {release}: its release.json is not what was signed ({why}); {FIX}") from e


def load_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _listed(proof: dict[str, Any], release: str, shipped: bytes | None) -> TargetFile:
    """Look up a release's release.json in verified targets metadata. RepositoryError for a wrong signature."""
    chain = [Metadata[Root].from_dict(each) for each in proof["roots"]]
    trusted = chain[0] if shipped is None else Metadata[Root].from_bytes(shipped)
    for each in chain:
        if each.signed.version <= trusted.signed.version:
            continue
        if each.signed.version != trusted.signed.version + 1:
            raise ValueError(f"root version {trusted.signed.version + 1} is missing")
        for judge in (trusted, each):
            judge.signed.verify_delegate("root", each.signed_bytes, each.signatures)
        trusted = each
    targets = Metadata[Targets].from_dict(proof["targets"])
    trusted.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    return targets.signed.targets[target_path(release, "release.json")]
