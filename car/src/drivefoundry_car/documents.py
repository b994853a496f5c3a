"""Read JSON and TOML from untrusted sources as plain values; every fault is a ValueError of one line.

The limits apply to everything that people or other programs write for us: UTF-8 with or without a byte order mark, at
most DEPTH levels deep, no integer too large for a float. The standard library's parsers raise RecursionError on deep
nesting, and code that walks a deep value fails in the same way later.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

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
