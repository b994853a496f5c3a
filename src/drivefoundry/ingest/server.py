"""The ingest service in a thread of this process: clips over HTTP in, ClipStore rows out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drivefoundry.clips.store import ClipStore


@dataclass(frozen=True)
class Running:
    """A service that listens at url."""

    url: str

    def flush(self) -> list[str]:
        """Land everything that has arrived; returns the ids of all clips landed since the start."""
        raise NotImplementedError


@contextmanager
def running(store: ClipStore, secret: str, port: int = 0, host: str = "127.0.0.1") -> Iterator[Running]:
    """Serve uploads into store until the block ends. ValueError when the port is taken."""
    raise NotImplementedError
