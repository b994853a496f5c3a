"""Parse a verb's arguments into its options; and the options that several verbs share."""

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
    """Options of every verb."""

    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON document on stdout; all other text goes to stderr."""


@dataclass(frozen=True, kw_only=True)
class Quiet(Common):
    """Option of verbs that show progress."""

    quiet: Annotated[bool, arg(aliases=["-q"], help_behavior_hint="")] = False
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Creates(Common):
    """Option of verbs that write or delete something."""

    dry_run: Annotated[bool, arg(help_behavior_hint="")] = False
    """Say what would be written or deleted, but change nothing."""


def announce(options: Common, text: str, data: Any) -> None:
    """Print how to reach a service before the verb ends: text, or with --json a document on one line."""
    if options.json:
        print(json.dumps(data, default=str), file=sys.__stdout__, flush=True)
    else:
        print(text, flush=True)


def named(reference: str) -> Any:
    """Import the object that "module:name" in the table refers to."""
    module, name = reference.split(":")
    return getattr(import_module(f"drivefoundry.cli.{module}"), name)


@cache
def flags(shape: type) -> dict[str, tuple[str, ...]]:
    """Option -> its allowed values (empty: any value, or none) of an options class."""
    hints = typing.get_type_hints(shape, include_extras=True)
    out: dict[str, tuple[str, ...]] = {}
    for field in fields(shape):
        hint = hints[field.name]
        if not _positional(hint):
            out[f"--{field.name.replace('_', '-')}"] = _choices(hint)
            out |= {alias: () for alias in _aliases(hint)}
    return out


def positionals(shape: type) -> dict[str, tuple[str, ...]]:
    """Positional argument -> its allowed values (empty: any)."""
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
    """Options of a verb, or None if help was requested (and shown). ValueError for invalid arguments; unknown options
    are reported before missing arguments."""
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
        text = _first_sentence(wrong.getvalue())
        if missing := _MISSING.match(text):
            text = f"{missing[1]} is missing; usage: {PROG} {verb.name} {verb.takes} [options]{_stage(verb.name)}"
        raise ValueError(f"{verb.name}: {text}") from None
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
    """Hint at the end of an error about a verb that shares its name with a stage."""
    return f"; the stage of this name is `{PROG} run --until {name}`" if name in STAGES else ""


def _first_sentence(message: str) -> str:
    """Text of a framed message up to its first rule or gap, as one line; in ASCII a frame consists of rules only."""
    parts: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│ ")
        if text.startswith(("╭", "╰")):
            continue
        if set(text) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(text)
    sentences = [" ".join(part) for part in parts if part]
    return sentences[0 if "╭" in message else min(1, len(sentences) - 1)]  # an ASCII frame has a title line
