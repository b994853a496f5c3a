"""Clip files in, receipts from the ingest service out: resumable (tus 1.0), verified by SHA-256."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Receipt:
    """The server has this clip: its SHA-256 (= clip id) and size, and the bytes this uploader sent for it."""

    sha256: str
    size: int
    sent: int


class Uploader:
    """A durable queue directory in front of one ingest service."""

    def __init__(self, server: str, token: str, queue_dir: Path | str, chunk: int = 1 << 20) -> None:
        raise NotImplementedError

    def enqueue(self, path: Path | str) -> str:
        """Move a clip file into the queue (atomic); returns its SHA-256."""
        raise NotImplementedError

    def send_all(self, paths: Sequence[Path | str] = ()) -> list[Receipt]:
        """Enqueue paths, then send everything queued; returns when the server has acknowledged all of it."""
        raise NotImplementedError
