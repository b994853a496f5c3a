"""A verb's words in, its options out; and the options that several verbs share."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from drivefoundry.cli.verbs import PROG, STAGES, Verb
from drivefoundry.settings import nearest

_NUMBER = re.compile(r"-\.?\d")
_MISSING = re.compile(r"Missing from .*?: (\S+)")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every verb takes."""

    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON document on stdout; all other text goes to stderr."""


@dataclass(frozen=True, kw_only=True)
class Quiet(Common):
    """For verbs that show how far they are."""

    quiet: Annotated[bool, arg(aliases=["-q"], help_behavior_hint="")] = False
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Creates(Common):
    """For verbs that write or delete something."""

    dry_run: Annotated[bool, arg(help_behavior_hint="")] = False
    """Say what would be written or deleted, and change nothing."""


def announce(options: Common, text: str, data: Any) -> None:
    """Say at once, before the verb ends, what a service is reached by: text, or with --json a document on one line."""
    if options.json:
        print(json.dumps(data, default=str), file=sys.__stdout__, flush=True)
    else:
        print(text, flush=True)


def named(reference: str) -> Any:
    """What "module:name" of the table stands for."""
    module, name = reference.split(":")
    return getattr(import_module(f"drivefoundry.cli.{module}"), name)


@cache
def flags(shape: type) -> dict[str, tuple[str, ...]]:
    """Option -> the values that it is limited to (none: any, or it takes none), of an options class."""
    hints = typing.get_type_hints(shape, include_extras=True)
    out: dict[str, tuple[str, ...]] = {}
    for field in fields(shape):
        hint = hints[field.name]
        if not _positional(hint):
            out[f"--{field.name.replace('_', '-')}"] = _choices(hint)
            out |= {alias: () for alias in _aliases(hint)}
    return out


def positionals(shape: type) -> dict[str, tuple[str, ...]]:
    """Positional argument -> the values that it is limited to (none: any)."""
    hints = typing.get_type_hints(shape, include_extras=True)
    return {f.name: _choices(hints[f.name]) for f in fields(shape) if _positional(hints[f.name])}


def _positional(hint: Any) -> bool:
    return any("Positional" in str(mark) for mark in getattr(hint, "__metadata__", ()))


def _aliases(hint: Any) -> list[str]:
    return [a for mark in getattr(hint, "__metadata__", ()) for a in getattr(mark, "aliases", None) or ()]


def _choices(hint: Any) -> tuple[str, ...]:
    """Values of the first Literal in a type."""
    if typing.get_origin(hint) is typing.Literal:
        return tuple(map(str, typing.get_args(hint)))
    return next((found for inner in typing.get_args(hint) if (found := _choices(inner))), ())


def parse(verb: Verb, rest: Sequence[str]) -> Any:
    """Options of a verb, or None if its help was asked for (and shown). ValueError for anything not understood; unknown
    options are named before missing arguments."""
    shape = named(verb.options)
    _only_known(verb.name, shape, rest)
    wrong = io.StringIO()
    try:
        with contextlib.redirect_stderr(wrong):
            options, unknown = tyro.cli(
                shape,
                prog=f"{PROG} {verb.name}",
                description=f"{verb.what[0].upper()}{verb.what[1:]}.",
                args=rest,
                return_unknown_args=True,
                config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            print(examples(verb))
            return None
        said = _first_sentence(wrong.getvalue())
        if missing := _MISSING.match(said):
            said = f"{missing[1]} is missing; usage: {PROG} {verb.name} {verb.takes} [options]{_stage(verb.name)}"
        raise ValueError(f"{verb.name}: {said}") from None
    if unknown:
        raise ValueError(f"{verb.name}: unexpected argument {unknown[0]!r}; see `{PROG} {verb.name} --help`")
    return options


def examples(verb: Verb) -> str:
    """The examples of a verb's help."""
    return "\n".join(["Examples:", *(f"  {PROG} {words}\n      {what}" for words, what in verb.examples)])


def _only_known(name: str, shape: type, rest: Sequence[str]) -> None:
    known = [*flags(shape), "-h", "--help"]
    for word in rest:
        if word == "--":
            return
        flag = word.partition("=")[0].replace("_", "-")
        if len(word) > 1 and word[0] == "-" and not _NUMBER.match(word) and flag not in known:
            near = nearest(flag, known[:-2])
            raise ValueError(f"{name}: unknown option {word.partition('=')[0]!r}: {near}{_stage(name)}")


def _stage(name: str) -> str:
    """The end of an error about a verb that has the name of a stage."""
    return f"; the stage of this name is `{PROG} run --until {name}`" if name in STAGES else ""


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
