"""A verb's arguments in, its options out."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Sequence
from typing import TypeVar

import tyro

from drivefoundry.cli.verbs import PROG
from drivefoundry.settings import nearest

T = TypeVar("T")


def parse(shape: type[T], verb: str, what: str, rest: Sequence[str]) -> T | None:
    """Options of a verb, or None if its help was asked for (and shown). ValueError for anything not understood."""
    wrong = io.StringIO()
    try:
        with contextlib.redirect_stderr(wrong):
            options, unknown = tyro.cli(
                shape,
                prog=f"{PROG} {verb}",
                description=f"{what[0].upper()}{what[1:]}.",
                args=rest,
                return_unknown_args=True,
                config=(tyro.conf.UseAppendAction,),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ValueError(f"{verb}: {_first_sentence(wrong.getvalue())}") from None
    if unknown:
        flags = [
            f"--{name.replace('_', '-')}" for name in inspect.signature(shape).parameters if name not in ("what", "who")
        ]
        raise ValueError(f"{verb}: unknown option {unknown[0]!r}: {nearest(unknown[0].partition('=')[0], flags)}")
    return options


def _first_sentence(message: str) -> str:
    """What a framed message says before its first rule or gap, as one line; in ASCII a frame is only rules."""
    parts: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│ ")
        if text.startswith(("╭", "╰")):
            continue
        if set(text) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(text)
    said = [" ".join(part) for part in parts if part]
    return said[0 if "╭" in message else min(1, len(said) - 1)]  # an ASCII frame has its title on a line of its own
