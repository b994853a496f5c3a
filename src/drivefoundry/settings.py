"""Configurations as text: canonical JSON of frozen dataclasses, and changes by "key=value" or a TOML file.

tyro reads each value in the type of its field. The keys, which nest like the dataclasses, are looked up here, so that
an unknown one is answered with the nearest that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from drivefoundry_car.documents import read_toml

R = TypeVar("R")
_WORDS = {"true": "True", "false": "False", "none": "None"}


def canonical(value: Any) -> str:
    """Serialise plain values as JSON text, identical for equal values on every machine.

    Dataclasses become objects of their fields, tuples lists, paths POSIX text; whole floats keep their decimal point.
    ValueError for NaN and infinity, and for values that are not plain.
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
    raise ValueError(f"{where}: {type(value).__name__} is not a plain value (text, number, bool, list, dataclass)")


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a configuration, as `--set` takes it, with its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def with_settings(config: R, settings: Iterable[str]) -> R:
    """Apply "key=value" texts. Keys reach into nested dataclasses ("pretrain.steps=200"), commas separate a list.

    ValueError names an unknown key and the nearest valid one, or the value that does not fit the field's type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: must be key=value")
        config = _put(config, key.strip(), key.strip().split("."), lambda hint, whole, t=text: _read(t, hint, whole))
    return config


def with_file(config: R, path: Path) -> R:
    """Apply a TOML file, whose tables reach into nested dataclasses. ValueError as `with_settings`, naming the file."""
    changes = read_toml(path)
    try:
        return with_values(config, changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def with_values(config: R, values: Mapping[str, Any]) -> R:
    """Apply plain values, nested as `canonical` writes them. ValueError as `with_settings`."""
    for key, value in _flat(values):
        config = _put(config, key, key.split("."), lambda hint, whole, v=value: _checked(v, hint, whole))
    return config


def nearest(word: str, names: Iterable[str]) -> str:
    """Hint at the end of an error line: the valid name that was probably meant."""
    names = list(names)
    close = difflib.get_close_matches(word, names, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(config: Any, whole: str, keys: list[str], value_of: typing.Callable[[Any, str], Any]) -> Any:
    first, *rest = keys
    prefix = whole[: len(whole) - len(".".join(keys))]
    names = [f.name for f in dataclasses.fields(config)]
    if first not in names:
        raise ValueError(f"unknown key {whole!r}: {nearest(whole, [prefix + name for name in names])}")
    old = getattr(config, first)
    if dataclasses.is_dataclass(old):
        if not rest:
            inner = ", ".join(f"{whole}.{f.name}" for f in dataclasses.fields(old))
            raise ValueError(f"key {whole!r} is a group: {inner}")
        return dataclasses.replace(config, **{first: _put(old, whole, rest, value_of)})
    if rest:
        raise ValueError(f"unknown key {whole!r}: {prefix + first!r} has no parts")
    return dataclasses.replace(config, **{first: value_of(typing.get_type_hints(type(config))[first], whole)})


def _read(text: str, hint: Any, key: str) -> Any:
    """A value of type `hint` from the command line."""
    words = [w.strip() for w in text.split(",") if w.strip()] if _is_list(hint) else [text.strip()]
    if hint is bool or type(None) in typing.get_args(hint):
        words = [_WORDS.get(word.lower(), word) for word in words]
    return _parsed(words, hint, key, text.strip())


def _checked(value: Any, hint: Any, key: str) -> Any:
    """Check that a plain value already has type `hint`; a whole number is accepted for a float."""
    if _is_list(hint) != isinstance(value, list):
        raise ValueError(f"key {key!r}: must be {_name(hint)}, got {str(value)[:40]!r}")
    words = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    parsed = _parsed(words, hint, key, value)
    same = list(parsed) == value if isinstance(value, list) else parsed == value
    if not same:
        raise ValueError(f"key {key!r}: must be {_name(hint)}, got {str(value)[:40]!r}")
    return parsed


def _parsed(words: list[str], hint: Any, key: str, given: Any) -> Any:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(hint, set()))
    assert isinstance(spec, PrimitiveConstructorSpec), f"{key}: {hint} is no type of a plain value"
    if spec.choices and words[0] not in spec.choices:
        raise ValueError(f"key {key!r}: {given!r} is not one of {', '.join(spec.choices)}")
    try:
        value = spec.instance_from_str(words)
        if not all(math.isfinite(v) for v in (value if _is_list(hint) else [value]) if isinstance(v, float)):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"key {key!r}: must be {_name(hint)}, got {str(given)[:40]!r}") from None
    return value


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (tuple, list)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
