"""What a clip is for, as a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LAST = -(1 << 31)
"""Priority of a clip of which nobody knows what it is for."""


@dataclass(frozen=True)
class Note:
    """What a clip is for: its campaign, priority (the higher goes first), and bytes that campaign may send a day."""

    campaign: str = ""
    priority: int = 0
    bytes_per_day: int | None = None

    def validate(self) -> Note:
        """The note itself, or ValueError naming the field."""
        if type(self.campaign) is not str:
            raise ValueError(f"Note.campaign: text wanted, not {self.campaign!r}")
        if type(self.priority) is not int:
            raise ValueError(f"Note.priority: a whole number wanted, not {self.priority!r}; the higher goes first")
        if self.bytes_per_day is not None and (type(self.bytes_per_day) is not int or self.bytes_per_day < 0):
            raise ValueError(f"Note.bytes_per_day: bytes or nothing wanted, not {self.bytes_per_day!r}")
        return self


def read_note(file: Path) -> Note:
    """A clip's note. One that cannot be read does not keep the clip at home: it goes last."""
    try:
        return Note(**json.loads(file.read_text())).validate()
    except FileNotFoundError:
        return Note()
    except (ValueError, TypeError, RecursionError):
        return Note(priority=LAST)
