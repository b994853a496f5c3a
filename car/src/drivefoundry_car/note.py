"""What a clip is for, as a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LAST = -(1 << 31)
"""Priority of a clip without a note."""


@dataclass(frozen=True)
class Note:
    """What a clip is for: campaign, priority (highest first), and the campaign's daily budget in bytes."""

    campaign: str = ""
    priority: int = 0
    bytes_per_day: int | None = None

    def validate(self) -> Note:
        """Return the note; ValueError names the invalid field."""
        if type(self.campaign) is not str:
            raise ValueError(f"Note.campaign: must be text, got {self.campaign!r}")
        if type(self.priority) is not int:
            raise ValueError(f"Note.priority: must be an integer, got {self.priority!r}; the highest goes first")
        if self.bytes_per_day is not None and (type(self.bytes_per_day) is not int or self.bytes_per_day < 0):
            raise ValueError(f"Note.bytes_per_day: must be bytes or None, got {self.bytes_per_day!r}")
        return self


def read_note(file: Path) -> Note:
    """Read a clip's note. An unreadable one does not block the clip: it goes last."""
    try:
        return Note(**json.loads(file.read_text())).validate()
    except FileNotFoundError:
        return Note()
    except (ValueError, TypeError, RecursionError):
        return Note(priority=LAST)
