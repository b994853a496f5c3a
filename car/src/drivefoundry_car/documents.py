"""Read JSON and TOML from untrusted sources as plain values; every fault is a ValueError of one line.

The limits apply to everything that people or other programs write for us: UTF-8 with or without a byte order mark, at
most DEPTH levels deep, no integer too large for a float. The standard library's parsers raise RecursionError on deep
nesting, and code that walks a deep value fails in the same way later.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

DEPTH = 64
"""Deepest nesting of lists and tables."""
LARGEST_TOML = 1 << 20
"""Largest TOML file, bytes; tomllib's time grows faster than linearly."""
_BITS = 1023
"""Longest integer, bits: longer ones do not fit a float either."""
_PART = r"""(?:"[^"\n]*+"|'[^'\n]*+'|(?<![\w-])[\w-]++)"""
_LONG_KEY = re.compile(rf"(?:^[ \t]*+\[{{0,2}}|[{{,])[ \t]*+(?:{_PART}[ \t]*+\.[ \t]*+){{{DEPTH}}}", re.MULTILINE)
"""A dotted key with too many parts: each is a table, and tomllib's time grows quadratically."""


def read_json(path: Path, fix: str = "") -> Any:
    """Read a JSON file. ValueError names the file, what is wrong and, if given, how to fix it."""
    return json_of(read_bytes(path), path, fix)


def json_of(data: bytes | str, name: object, fix: str = "") -> Any:
    """Parse JSON text. ValueError starts with `name` and ends with how to fix it."""
    after = f"; {fix}" if fix else ""
    text = decoded(data, name)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: nested more than {DEPTH} levels deep{after}") from None
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({str(error).partition(chr(10))[0]}){after}") from None
    _bounded(value, name, after)
    return value


def json_object(data: bytes | str, name: object, fix: str = "") -> dict[str, Any]:
    """Parse JSON text that must be an object; ValueError as in `json_of`."""
    value = json_of(data, name, fix)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: must be a JSON object, got {_called(value)}" + (f"; {fix}" if fix else ""))
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as a table. ValueError names the file and what is wrong."""
    return toml_of(read_bytes(path), path)


def toml_of(data: bytes | str, name: object) -> dict[str, Any]:
    """Parse TOML text as a table. ValueError starts with `name`."""
    if len(data) > LARGEST_TOML:
        raise ValueError(f"{name}: {len(data):,} bytes of TOML exceed the limit of {LARGEST_TOML:,}")
    text = decoded(data, name)
    try:
        if _LONG_KEY.search(text):
            raise RecursionError
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: nested more than {DEPTH} levels deep") from None
    except ValueError as error:
        raise ValueError(f"{name}: not TOML ({error})") from None
    _bounded(table, name, "")
    return table


def decoded(data: bytes | str, name: object) -> str:
    """Decode UTF-8 bytes, without a byte order mark. ValueError if they are not UTF-8."""
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}); save the file as UTF-8"
        ) from None


def read_bytes(path: Path) -> bytes:
    """Read a file's bytes. ValueError names a file that cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def typed(kind: Any, table: object, where: str = "", *, folder: Path | None = None, whole: bool = False) -> Any:
    """Make a dataclass of a table, every field checked by its type, and validated if it has `validate`.

    Fields may be text, numbers (finite), bools, paths (relative to `folder`), tuples (lists), mappings and dataclasses
    (tables). where: the table's own name; whole: fields with a default must be given, too. ValueError names the field.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table, got {_called(table)}")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    for name in table:
        if name not in known:
            raise ValueError(f"{_dotted(where, name)}: unknown; known are {', '.join(known)}")
    values = {}
    for name, f in known.items():
        if name in table:
            values[name] = _typed_value(hints[name], table[name], _dotted(where, name), folder, whole)
        elif whole or (f.default is MISSING and f.default_factory is MISSING):
            raise ValueError(f"{_dotted(where, name)} is missing; add it")
    made = kind(**values)
    try:
        return made.validate() if hasattr(made, "validate") else made
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _typed_value(hint: Any, value: object, where: str, folder: Path | None, whole: bool) -> Any:
    """A value as a field's type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _typed_value(next(a for a in args if a is not NoneType), value, where, folder, whole)
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, list) and args[-1] is ... else args
        if not isinstance(value, list) or len(value) != len(kinds):
            raise ValueError(f"{where} must be a list" + ("" if args[-1] is ... else f" of {len(args)} numbers"))
        items = enumerate(zip(kinds, value, strict=True))
        return tuple(_typed_value(a, v, f"{where}[{i}]", folder, whole) for i, (a, v) in items)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {_called(value)}")
        return {name: _typed_value(args[1], v, _dotted(where, name), folder, whole) for name, v in value.items()}
    if is_dataclass(hint):
        return typed(hint, value, where, folder=folder, whole=whole)
    if hint is Path and isinstance(value, str):
        return Path(value) if folder is None else folder / value
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where} must be {_KINDS[hint]}, got {repr(value)[:42]}")
    return value


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _bounded(value: Any, name: object, after: str) -> None:
    """Check nesting depth and size of integers; else ValueError."""
    level = [value]
    for _ in range(DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, (dict, list)):
                inner.extend(item.values() if isinstance(item, dict) else item)
            elif isinstance(item, int) and item.bit_length() > _BITS:
                raise ValueError(f"{name}: an integer of {item.bit_length()} bits, more than {_BITS}{after}")
        if not inner:
            return
        level = inner
    raise ValueError(f"{name}: nested more than {DEPTH} levels deep{after}")


def _called(value: Any) -> str:
    """Name a JSON value's type."""
    kinds = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
