"""Recipes as text: a stable JSON of frozen dataclasses, and changes by "key=value" that refuse unknown keys."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from drivefoundry_car.documents import read_toml

R = TypeVar("R")


def canonical(value: Any) -> str:
    """Plain values in, one JSON text out: the same for equal values on every machine.

    Dataclasses become objects of their fields, tuples lists, paths POSIX text; whole floats keep their point.
    ValueError for NaN and infinity, and for what is no plain value.
    """
    return json.dumps(
        _plain(value, "recipe"), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def _plain(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where}: key {key!r} is not text")
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a finite number")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    item = getattr(value, "item", None)  # numpy scalars
    if item is not None and getattr(value, "ndim", None) == 0:
        return _plain(item(), where)
    raise ValueError(f"{where}: {type(value).__name__} is no plain value (text, number, bool, list, dataclass)")


def with_settings(recipe: R, settings: Iterable[str]) -> R:
    """Recipe and "key=value" texts in, the changed recipe out. Keys reach into nested dataclasses: "train.steps=200".

    ValueError names an unknown key and the nearest valid one, or the value that does not fit the field's type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: must be key=value")
        recipe = _put(recipe, key.strip().split("."), text.strip(), key.strip(), is_text=True)
    return recipe


def with_file(recipe: R, path: Path) -> R:
    """Recipe and a TOML file of changes in, the changed recipe out; tables reach into nested dataclasses.

    ValueError as `with_settings`, with the file named.
    """
    changes = read_toml(path)
    try:
        return with_values(recipe, changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def with_values(recipe: R, values: Mapping[str, Any]) -> R:
    """Recipe and plain values as `canonical` writes them in, the recipe with these values out. ValueError as above."""
    for key, value in _leaves(values):
        recipe = _put(recipe, key.split("."), value, key, is_text=False)
    return recipe


def nearest(word: str, names: Iterable[str]) -> str:
    """The end of an error line: which valid name was meant."""
    names = list(names)
    close = difflib.get_close_matches(word, names, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(recipe: Any, keys: list[str], value: Any, whole: str, *, is_text: bool) -> Any:
    names = [f.name for f in dataclasses.fields(recipe)]
    first, rest = keys[0], keys[1:]
    prefix = whole[: len(whole) - len(".".join(keys))]
    if first not in names:
        raise ValueError(f"unknown key {whole!r}: {nearest(whole, [prefix + name for name in names])}")
    old = getattr(recipe, first)
    if dataclasses.is_dataclass(old):
        if not rest:
            inner = ", ".join(f"{whole}.{f.name}" for f in dataclasses.fields(old))
            raise ValueError(f"key {whole!r} is a group: {inner}")
        return dataclasses.replace(recipe, **{first: _put(old, rest, value, whole, is_text=is_text)})
    if rest:
        raise ValueError(f"unknown key {whole!r}: {prefix + first!r} has no parts")
    hint = typing.get_type_hints(type(recipe))[first]
    return dataclasses.replace(recipe, **{first: _typed(value, hint, whole, is_text)})


def _typed(value: Any, hint: Any, key: str, is_text: bool) -> Any:
    """A value of the field's type, from a TOML value or (is_text) from the command line."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if str(value) in ("none", "None") and type(None) in args:
            return None
        args = tuple(a for a in args if a is not type(None))
        origin, hint, args = typing.get_origin(args[0]), args[0], typing.get_args(args[0])
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"key {key!r}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin in (tuple, list):
        parts = [p for p in value.split(",") if p] if is_text else value
        if not isinstance(parts, list):
            raise ValueError(f"key {key!r}: must be a list, got {value!r}")
        return (origin or tuple)(_typed(p.strip() if is_text else p, args[0], key, is_text) for p in parts)
    if hint is bool and is_text and str(value).lower() in ("true", "false", "yes", "no", "1", "0"):
        return str(value).lower() in ("true", "yes", "1")
    try:
        if hint in (int, float) and (is_text or (isinstance(value, (int, float)) and not isinstance(value, bool))):
            number = hint(value)
            if not is_text and number != value:
                raise ValueError
            if math.isfinite(number):
                return number
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"key {key!r}: must be {hint.__name__}, got {str(value)[:40]!r}") from None
    if hint in (str, Path) and isinstance(value, str):
        return hint(value)
    if hint is bool and isinstance(value, bool):
        return value
    raise ValueError(f"key {key!r}: must be {getattr(hint, '__name__', hint)}, got {value!r}")
