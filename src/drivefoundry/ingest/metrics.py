"""Counters of the ingest service for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]
_NAMESPACE = "drivefoundry_ingest"
disable_created_metrics()


class Metrics:
    """Counters with labels; gauges are passed to `text` when it is called. Threads may share it."""

    def __init__(self, counters: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
        """counters: name -> help and label names."""
        self._registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, about, labels, namespace=_NAMESPACE, registry=self._registry)
            for name, (about, labels) in counters.items()
        }

    def add(self, counter: str, amount: float = 1.0, **labels: str) -> None:
        """Increment a counter. KeyError if it was not declared, ValueError for other labels than declared."""
        one = self._counters[counter]
        (one.labels(**labels) if labels else one).inc(amount)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Format all counters and gauges (name -> help, value)."""
        now = CollectorRegistry()
        for name, (about, value) in gauges.items():
            Gauge(name, about, namespace=_NAMESPACE, registry=now).set(value)
        return (generate_latest(self._registry) + generate_latest(now)).decode()
