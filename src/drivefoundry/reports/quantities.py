"""Readable names and units of the figures that stages report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivefoundry.reports.charts import percent, plain, show_bytes, show_seconds

Show = Callable[[float], str]


def _with(unit: str) -> Show:
    return lambda value: f"{plain(value)} {unit}"


NAMES: dict[str, tuple[str, Show]] = {
    "car_seconds": ("driving", show_seconds),
    "collision": ("collisions", percent),
    "collisions": ("collisions", percent),
    "compression": ("compression", _with("x")),
    "driving_score_21": ("driving score", plain),
    "epdms": ("EPDMS", plain),
    "goodput": ("goodput", percent),
    "km": ("driven", _with("km")),
    "loss": ("loss", plain),
    "mfu": ("MFU", percent),
    "off_road": ("off road", percent),
    "over_budget": ("over budget", plain),
    "pdms": ("PDMS", plain),
    "plan_agreement": ("same plan", percent),
    "plan_error_m": ("plan error", _with("m")),
    "progress": ("route completion", percent),
    "red_light": ("red light run", percent),
    "runtime": ("runtime share", percent),
    "samples_per_s": ("throughput", _with("samples/s")),
    "scheduling": ("scheduling share", percent),
    "takeovers_per_km": ("takeovers", _with("/ km")),
    "token_agreement": ("same tokens", percent),
    "upload_seconds": ("upload", show_seconds),
    "weight_error": ("weight error", percent),
    "worst_weight_error": ("worst weight error", percent),
}
"""Key of an artefact's info -> its name and the format of its value."""
ENDINGS: tuple[tuple[str, Show], ...] = (
    ("_bytes", show_bytes), ("_per_s", _with("/ s")), ("_seconds", show_seconds), ("_s", show_seconds),
    (" ADE m", _with("m")), ("_m", _with("m")), ("_share", percent),
)  # fmt: skip
"""Formats of keys that are not in NAMES, by suffix."""
LEFT_OUT = {"policy", "sent_bytes", "recorded_bytes", "bytes"}
"""Keys shown elsewhere: in the stage's name and its column of bytes."""


def quantities(info: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """An artefact's figures as (name, value with unit), in the order of its info."""
    return tuple(
        pair for key, value in info.items() if key not in LEFT_OUT and (pair := quantity(key, value)) is not None
    )


def quantity(key: str, value: Any) -> tuple[str, str] | None:
    """Name and value with unit; None for empty values and types other than text, number or counts."""
    words = key.replace("_", " ")
    if isinstance(value, dict):
        counts = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in value.items())
        return (words, counts) if counts else None
    if isinstance(value, bool) or value is None or isinstance(value, list):
        return None
    if isinstance(value, str):
        return (words, value) if value else None
    if key in NAMES:
        name, show = NAMES[key]
        return name, show(value)
    for ending, show in ENDINGS:
        if key.endswith(ending):
            return key.removesuffix(ending).replace("_", " ") + (" ADE" if ending == " ADE m" else ""), show(value)
    return words, f"{value:,}" if isinstance(value, int) else plain(value)
