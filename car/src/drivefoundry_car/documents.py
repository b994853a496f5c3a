"""JSON and TOML from anywhere in, plain values out; what is wrong with them is one ValueError of one line.

The bounds hold for everything that people or other programs write for us: UTF-8 with or without a byte order mark, at
most DEPTH levels deep, no integer that is too large for a float. The standard library's parsers answer deep nesting
with a RecursionError, and code that walks a deep value fails the same way later on.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

DEPTH = 64
"""Most levels of lists and tables."""
LARGEST_TOML = 1 << 20
"""Bytes; tomllib's time grows faster than the file."""
_BITS = 1023
"""Most of an integer: what is longer is no float either."""
_PART = r"""(?:"[^"\n]*+"|'[^'\n]*+'|(?<![\w-])[\w-]++)"""
_LONG_KEY = re.compile(rf"(?:^[ \t]*+\[{{0,2}}|[{{,])[ \t]*+(?:{_PART}[ \t]*+\.[ \t]*+){{{DEPTH}}}", re.MULTILINE)
"""A dotted key of more parts: each is a table of its own, and tomllib's time grows with their square."""


def read_json(path: Path, mend: str = "") -> Any:
    """A JSON file in, its value out. ValueError names the file, what is wrong and, where given, how to fix it."""
    return json_of(read_bytes(path), path, mend)


def json_of(data: bytes | str, name: object, mend: str = "") -> Any:
    """JSON text in, its value out. ValueError begins with `name` and ends with how to fix it."""
    after = f"; {mend}" if mend else ""
    text = decoded(data, name)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: nested more than {DEPTH} levels deep{after}") from None
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({str(error).partition(chr(10))[0]}){after}") from None
    _bounded(value, name, after)
    return value


def json_object(data: bytes | str, name: object, mend: str = "") -> dict[str, Any]:
    """JSON text in, the object that it must be out; ValueError as `json_of`."""
    value = json_of(data, name, mend)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: must be a JSON object, got {_called(value)}" + (f"; {mend}" if mend else ""))
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file in, its table out. ValueError names the file and what is wrong with it."""
    return toml_of(read_bytes(path), path)


def toml_of(data: bytes | str, name: object) -> dict[str, Any]:
    """TOML text in, its table out. ValueError begins with `name`."""
    if len(data) > LARGEST_TOML:
        raise ValueError(f"{name}: {len(data):,} bytes of TOML, at most {LARGEST_TOML:,} are read")
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
    """UTF-8 bytes in, text without a byte order mark out. ValueError says that UTF-8 is wanted."""
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}); save the file as UTF-8"
        ) from None


def read_bytes(path: Path) -> bytes:
    """A file's bytes. ValueError names the file that cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _bounded(value: Any, name: object, after: str) -> None:
    """ValueError for values that are too deep or integers that no float holds."""
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
    """A JSON value's kind in words."""
    kinds = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
