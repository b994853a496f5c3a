"""Names of modules in, one hash of their source out."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_NOT_SOURCE = {".pyc", ".so", ".pyd", ".dylib"}
_CACHE = "__pycache__"  # compiled code, also numba's, which comes while the first run goes on


@cache
def code_hash(names: tuple[str, ...]) -> str:
    """sha256 over the files of the named modules and packages ("drivefoundry.fleet": all files below it); imports none.

    Raises ValueError if a name has no source.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        digest.update(f"\n{name} {_one(name)}".encode())
    return digest.hexdigest()


@cache
def _one(name: str) -> str:
    digest = hashlib.sha256()
    root, files = _files(name)
    for path in files:
        inner = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.relative_to(root).as_posix()}\0{inner}".encode())
    return digest.hexdigest()


def _files(name: str) -> tuple[Path, list[Path]]:
    """Folder and source files of a dotted name, found without importing it (which may cost seconds)."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise ValueError(f"code {name!r}: no module or package of this name")
    if spec.submodule_search_locations is None:
        return Path(spec.origin).parent, [Path(spec.origin)]
    base = Path(spec.origin).parent.joinpath(*rest)
    if base.is_dir():
        files = (p for p in base.rglob("*") if _CACHE not in p.parts and p.suffix not in _NOT_SOURCE)
        return base, sorted(p for p in files if p.is_file())
    if base.with_suffix(".py").is_file():
        return base.parent, [base.with_suffix(".py")]
    data = [p for p in sorted(base.parent.glob(f"{base.name}.*")) if p.suffix not in _NOT_SOURCE]
    if data:  # a file that the code reads, as drivefoundry_car/triggers/campaigns.toml
        return base.parent, data
    raise ValueError(f"code {name!r}: no module or package of this name")
