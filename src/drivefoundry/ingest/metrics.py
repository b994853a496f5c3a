"""Counters in Prometheus' text exposition format 0.0.4."""

from __future__ import annotations

import threading
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "drivefoundry_ingest_"


class Metrics:
    """Counters with labels; gauges are passed to `text` when it is called. Threads may share it."""

    def __init__(self, counters: Mapping[str, str]) -> None:
        self._help = dict(counters)
        self._lock = threading.Lock()
        self._values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {name: {} for name in counters}

    def add(self, counter: str, amount: float = 1.0, **labels: str) -> None:
        """Increment a counter. KeyError if it was not declared."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            of = self._values[counter]
            of[key] = of.get(key, 0.0) + amount

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Format all counters and gauges (name -> help, value), one sample per line."""
        lines = []
        with self._lock:
            for name, samples in self._values.items():
                lines += _head(name, self._help[name], "counter")
                lines += [_sample(name, labels, value) for labels, value in sorted(samples.items())]
        for name, (about, value) in gauges.items():
            lines += [*_head(name, about, "gauge"), _sample(name, (), value)]
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {_PREFIX}{name} {about}", f"# TYPE {_PREFIX}{name} {kind}"]


def _sample(name: str, labels: tuple[tuple[str, str], ...], value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{_PREFIX}{name}{{{inner}}} {value:.17g}" if inner else f"{_PREFIX}{name} {value:.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
