"""Results at paths that the user named: written atomically, and never over files that are not ours.

What was written is recorded in MARK, a file in the same folder. A folder is written to only if it is absent, empty, or
holds what an earlier run wrote, unchanged since; anything else is refused in one line. Until complete, files have
unique temporary names beside their final place or in their folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drivefoundry.types import require
from drivefoundry_car.documents import json_object

MARK = ".drivefoundry-wrote.json"
"""Maps names to the `_stamp` of the file as written; null while it is being written."""
_ASIDE = ".drivefoundry-"
_READ = 1 << 20
_SIGNS = {".gguf": (0, b"GGUF"), ".safetensors": (8, b'{"'), ".png": (0, b"\x89PNG\r\n\x1a\n"), ".gif": (0, b"GIF8"),
          ".mp4": (4, b"ftyp")}  # fmt: skip
"""Kind of file -> its signature, and the signature's offset in bytes."""


@contextmanager
def file(out: Path, kind: str = "") -> Iterator[Path]:
    """Yield a temporary path, with the same ending, at which to write a file that the user named.

    At the end of the block it atomically replaces `out`. kind: as in `check_file`. ValueError if `out` is not a plain
    file, is of another kind, or its folder is missing.
    """
    check_file(out, kind)
    place = Path(out).resolve()
    aside = place.with_name(f"{_ASIDE}{secrets.token_hex(8)}{Path(out).suffix}")
    try:
        yield aside
        _durable(aside)
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def check_file(out: Path, kind: str = "") -> None:
    """Raise ValueError if `file` would not write: `out` is a folder or device, or its parent folder is missing.

    kind: ".gguf", ".safetensors", ".png", ".gif" or ".mp4": the format to be written, whatever the name. A file of
    another kind belongs to somebody else and is not replaced, nor is the target of a link; an empty one may be.
    """
    place = Path(out).resolve()
    require(place.parent.is_dir(), f"{out}: there is no folder {place.parent}; make it first")
    require(not place.is_dir(), f"{out}: is a folder; give the name of a file")
    require(place.is_file() or not place.exists(), f"{out}: not a plain file; give the name of a file")
    if kind and place.is_file():
        at, sign = _SIGNS[kind]
        with place.open("rb") as held:
            head = held.read(at + len(sign))
        require(head[at:] == sign or not head, f"{out}: exists and is not a {kind} file; move it, or give another name")


@contextmanager
def folder(out: Path, last: str) -> Iterator[Path]:
    """Yield an empty temporary folder for the files of a folder that the user named.

    At the end of the block the files move into place; `last` names the file by which readers recognise the folder: its
    old version is removed first, its new one comes last. Files of an earlier run that this one did not write are
    removed. ValueError if there is anything else in the folder.
    """
    out = Path(out)
    check_folder(out)
    place = out.resolve()
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
    aside = (place if place.exists() else place.parent) / f"{_ASIDE}{secrets.token_hex(8)}.part"
    aside.mkdir()
    try:
        yield aside
        for path in aside.iterdir():
            _durable(path)
        names = sorted(path.name for path in aside.iterdir())
        assert last in names
        if not place.exists():
            _note(aside, {name: _stamp(aside / name) for name in names})
            os.replace(aside, place)
            return
        check_folder(out)
        before = _noted(place)
        (place / last).unlink(missing_ok=True)
        _moved(aside, place, names, last, {name: None for name in before})
        for name in set(before) - set(names):
            (place / name).unlink(missing_ok=True)
        _note(place, {name: _stamp(place / name) for name in names})
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_folder(out: Path) -> None:
    """Raise ValueError if `folder` would not write: `out` holds anything not written, or changed since, by us."""
    place = Path(out).resolve()
    require(place.is_dir() or not place.exists(), f"{out}: is a file; give a folder")
    if place.is_dir():
        ours = _unchanged(place)
        for name in sorted(os.listdir(place)):
            mine = name in ours or name == MARK or (name.startswith(_ASIDE) and name.endswith(".part"))
            require(mine, f"{out}: holds {name!r}, which is not from an earlier export; give an empty or new folder")


@contextmanager
def among(out: Path, names: Iterable[str], last: str) -> Iterator[Path]:
    """Yield an empty temporary folder for files to be written into a folder that the user named.

    At the end of the block the written files move into place, `last` after the others; other files in the folder stay.
    ValueError if one of the names is taken by a file that is not ours.
    """
    out, names = Path(out), list(names)
    check_among(out, names)
    place = out.resolve()
    place.mkdir(parents=True, exist_ok=True)
    aside = place / f"{_ASIDE}{secrets.token_hex(8)}.part"
    aside.mkdir()
    try:
        yield aside
        made = sorted(path.name for path in aside.iterdir())
        assert set(made) <= set(names), f"{made}: more than announced"
        for path in aside.iterdir():
            _durable(path)
        check_among(out, names)
        _moved(aside, place, made, last, dict(_noted(place)))
        _note(place, {**_noted(place), **{name: _stamp(place / name) for name in made}})
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_among(out: Path, names: Iterable[str]) -> None:
    """Raise ValueError if `among` would not write: one of the names is taken by a file that is not ours."""
    place = Path(out).resolve()
    require(place.is_dir() or not place.exists(), f"{out}: is a file; give a folder")
    ours = _unchanged(place) if place.is_dir() else set()
    for name in names:
        free = name in ours or not os.path.lexists(place / name)
        require(free, f"{Path(out) / name}: exists and is not from an earlier run; move it, or give another folder")


def _moved(aside: Path, place: Path, names: list[str], last: str, noted: dict[str, str | None]) -> None:
    """Move files into place, `last` after the others; recorded first, so that a kill leaves nothing unaccounted for."""
    _note(place, noted | dict.fromkeys(names))
    for name in sorted(names, key=lambda name: name == last):
        os.replace(aside / name, place / name)


def _unchanged(place: Path) -> set[str]:
    """Names in a folder that an earlier run wrote and that are unchanged."""
    noted = _noted(place)
    return {name for name, stamp in noted.items() if (place / name).is_file() and stamp in (None, _stamp(place / name))}


def _noted(place: Path) -> dict[str, str | None]:
    path = place / MARK
    if not path.is_file():
        return {}
    noted = json_object(path.read_bytes(), path, "remove it and what it stands for")
    plain = all(Path(name).name == name and (stamp is None or isinstance(stamp, str)) for name, stamp in noted.items())
    require(plain, f"{path}: not what was written there; remove it and what it stands for")
    return noted


def _note(place: Path, noted: dict[str, str | None]) -> None:
    aside = place / f"{_ASIDE}{secrets.token_hex(8)}.json"
    try:
        aside.write_text(json.dumps(noted, indent=1, sort_keys=True))
        _durable(aside)
        os.replace(aside, place / MARK)
    finally:
        aside.unlink(missing_ok=True)


def _stamp(path: Path) -> str:
    """Size, time and hash of the first megabyte of a file: detects changes without reading gigabytes."""
    about = path.stat()
    with path.open("rb") as held:
        return f"{about.st_size} {about.st_mtime_ns} {hashlib.sha256(held.read(_READ)).hexdigest()}"


def _durable(path: Path) -> None:
    """Flush a file to disk before it is renamed, so that a power cut leaves no empty file under its final name."""
    with path.open("rb") as held:
        os.fsync(held.fileno())
