"""Where results go: files and folders that the user named appear whole, and nothing in them that is not ours is lost.

What was written is noted in MARK, a file of the folder itself. A folder is written to if it is absent, empty, or holds
what an earlier run wrote and nobody has changed since; everything else is refused in one line. While they are made,
files lie aside under names that nobody else has, beside their place or in their folder.
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
"""Name -> what `_stamp` said of it when it was written; null while that is going on."""
_ASIDE = ".drivefoundry-"
_READ = 1 << 20
_SIGNS = {".gguf": (0, b"GGUF"), ".safetensors": (8, b'{"'), ".png": (0, b"\x89PNG\r\n\x1a\n"), ".gif": (0, b"GIF8"),
          ".mp4": (4, b"ftyp")}  # fmt: skip
"""Kind of file -> what tells it, and at which byte."""


@contextmanager
def file(out: Path, kind: str = "") -> Iterator[Path]:
    """A file that the user named in; where to write it, a free path beside it with the same ending, out.

    At the end of the block it takes the place of `out`, of which no half is ever seen. kind: as of `check_file`.
    ValueError where `out` is no plain file, a file of another kind, or its folder is missing.
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
    """ValueError where `file` would not write: a folder or device stands there, or the folder around it is missing.

    kind: ".gguf", ".safetensors", ".png", ".gif" or ".mp4": what is written there, whatever its name. A file of another
    kind is somebody's own and not replaced, nor where a link leads to it; an empty one holds nothing to lose.
    """
    place = Path(out).resolve()
    require(place.parent.is_dir(), f"{out}: there is no folder {place.parent}; make it first")
    require(not place.is_dir(), f"{out}: is a folder; give the name of a file")
    require(place.is_file() or not place.exists(), f"{out}: is no plain file; give the name of a file")
    if kind and place.is_file():
        at, sign = _SIGNS[kind]
        with place.open("rb") as held:
            head = held.read(at + len(sign))
        require(head[at:] == sign or not head, f"{out}: is there and no {kind} file; move it, or give another name")


@contextmanager
def folder(out: Path, last: str) -> Iterator[Path]:
    """A folder that the user named in; where to write its files, an empty folder, out.

    At the end of the block the files take their places; `last` names the file without which nobody takes the folder for
    what it is: an old one goes first, the new one comes last. What an earlier run wrote and this one did not goes too.
    ValueError where anything else lies there.
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
    """ValueError where `folder` would not write: what lies there was not, or not so, written by an earlier run."""
    place = Path(out).resolve()
    require(place.is_dir() or not place.exists(), f"{out}: is a file; give a folder")
    if place.is_dir():
        ours = _unchanged(place)
        for name in sorted(os.listdir(place)):
            mine = name in ours or name == MARK or (name.startswith(_ASIDE) and name.endswith(".part"))
            require(mine, f"{out}: holds {name!r}, which is not from an earlier export; give an empty or new folder")


@contextmanager
def among(out: Path, names: Iterable[str], last: str) -> Iterator[Path]:
    """A folder that the user named and files to write in it in; where to write them, an empty folder, out.

    At the end of the block those that were written take their places, `last` after the others; what else lies in the
    folder stays. ValueError where one of the names is taken by what we did not write.
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
        assert set(made) <= set(names), f"{made}: more than was said"
        for path in aside.iterdir():
            _durable(path)
        check_among(out, names)
        _moved(aside, place, made, last, dict(_noted(place)))
        _note(place, {**_noted(place), **{name: _stamp(place / name) for name in made}})
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_among(out: Path, names: Iterable[str]) -> None:
    """ValueError where `among` would not write: one of the names is taken by what we did not write."""
    place = Path(out).resolve()
    require(place.is_dir() or not place.exists(), f"{out}: is a file; give a folder")
    ours = _unchanged(place) if place.is_dir() else set()
    for name in names:
        free = name in ours or not os.path.lexists(place / name)
        require(free, f"{Path(out) / name}: is there and not from an earlier run; move it, or give another folder")


def _moved(aside: Path, place: Path, names: list[str], last: str, noted: dict[str, str | None]) -> None:
    """Files into their places, `last` after the others; noted before, so that a kill leaves nothing foreign."""
    _note(place, noted | dict.fromkeys(names))
    for name in sorted(names, key=lambda name: name == last):
        os.replace(aside / name, place / name)


def _unchanged(place: Path) -> set[str]:
    """The names in a folder that an earlier run wrote, as they were written."""
    noted = _noted(place)
    return {name for name, stamp in noted.items() if (place / name).is_file() and stamp in (None, _stamp(place / name))}


def _noted(place: Path) -> dict[str, str | None]:
    path = place / MARK
    if not path.is_file():
        return {}
    told = json_object(path.read_bytes(), path, "remove it and what it stands for")
    plain = all(Path(name).name == name and (stamp is None or isinstance(stamp, str)) for name, stamp in told.items())
    require(plain, f"{path}: not what was written there; remove it and what it stands for")
    return told


def _note(place: Path, noted: dict[str, str | None]) -> None:
    aside = place / f"{_ASIDE}{secrets.token_hex(8)}.json"
    try:
        aside.write_text(json.dumps(noted, indent=1, sort_keys=True))
        _durable(aside)
        os.replace(aside, place / MARK)
    finally:
        aside.unlink(missing_ok=True)


def _stamp(path: Path) -> str:
    """Size, time and first megabyte of a file: what tells a changed one without reading gigabytes."""
    about = path.stat()
    with path.open("rb") as held:
        return f"{about.st_size} {about.st_mtime_ns} {hashlib.sha256(held.read(_READ)).hexdigest()}"


def _durable(path: Path) -> None:
    """On the disk before its name is: a power cut leaves no empty file under a good name."""
    with path.open("rb") as held:
        os.fsync(held.fileno())
