"""Checks of configuration fields for `validate` methods; each names the field that fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from drivefoundry.types import require


def validate_parts(config: Any) -> None:
    """Validate the configurations nested in this one; prefixes their ValueErrors with the name of the field."""
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if dataclasses.is_dataclass(part):
            try:
                part.validate()  # type: ignore[attr-defined]
            except ValueError as error:
                raise ValueError(f"{field.name}.{error}") from None


def in_range(config: Any, least: float, most: float, *names: str) -> None:
    """Check that fields are from `least` to `most`. ValueError names the first that is not."""
    for name in names:
        value = getattr(config, name)
        require(least <= value <= most, f"{name}: must be from {least:,} to {most:,}, got {value}")


def positive(config: Any, most: float, *names: str) -> None:
    """Check that fields are > 0 and at most `most`. ValueError names the first that is not."""
    for name in names:
        value = getattr(config, name)
        require(0 < value <= most, f"{name}: must be > 0 and at most {most:,}, got {value}")


def one_of(config: Any, known: Collection[str], *names: str) -> None:
    """Check that fields have known values. ValueError names the first that does not."""
    for name in names:
        value = getattr(config, name)
        require(value in known, f"{name}: {value!r} is not one of {', '.join(known)}")


def distinct(config: Any, known: Collection[Any] | None, *names: str) -> None:
    """Check that tuples are not empty and have distinct, known values. ValueError names the first that does not."""
    for name in names:
        values = getattr(config, name)
        require(len(values) > 0, f"{name}: give at least one")
        require(len({*values}) == len(values), f"{name}: {', '.join(map(str, values))}: one of them is given twice")
        for value in values:
            require(known is None or value in known, f"{name}: {value!r} is not one of {', '.join(known or ())}")
