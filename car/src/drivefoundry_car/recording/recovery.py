"""Clips that a killed recorder left behind."""

from __future__ import annotations

from pathlib import Path

from drivefoundry_car.durable import rename
from drivefoundry_car.recording.recorder import PART
from drivefoundry_car.recording.stream import McapStream

DAMAGED = "damaged"


def recover(folder: Path | str) -> dict[Path, Path | str]:
    """Finish the `.part` files of a folder; returns each one's finished clip, or why there is none. Run it before
    recording.

    A clip is complete up to the last chunk that reached the disk. Files still being written are left alone; those
    without content are moved to the folder 'damaged'; those that cannot be written now can be retried.
    """
    found: dict[Path, Path | str] = {}
    for part in sorted(Path(folder).glob(f"*.mcap{PART}")):
        try:
            stream = McapStream.reopen(part)
        except BlockingIOError as error:
            found[part] = str(error)
            continue
        except ValueError as error:
            found[part] = f"{error}; moved to {set_aside(part).parent}"
            continue
        try:
            stream.finish()
            rename(part, part.with_suffix(""))
            found[part] = part.with_suffix("")
        except OSError as error:
            stream.abandon()
            found[part] = f"{part}: {error.strerror}"
    return found


def set_aside(file: Path) -> Path:
    """Move an unreadable clip to damaged/ and return its path."""
    aside = file.parent / DAMAGED / file.name
    aside.parent.mkdir(exist_ok=True)
    file.replace(aside)
    return aside
