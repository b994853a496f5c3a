"""Clip files in, versioned rows and content-addressed video out; and Drives back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from drivefoundry_car.log import Drive


class ClipStore:
    """One Lance table of clips beside one object store, under url."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def land(self, mcap_paths: Sequence[Path]) -> list[str]:
        """Clip files in, their ids out (same order). A clip that is already here is not added again."""
        raise NotImplementedError

    def ids(self) -> list[str]:
        raise NotImplementedError

    def rows(self, columns: list[str] | None = None) -> pa.Table:
        raise NotImplementedError

    def drive(self, clip_id: str, video: bool = True) -> Drive:
        raise NotImplementedError

    def put_map(self, map_id: str, data: bytes) -> str:
        """Keep a map's bytes under its id; returns the SHA-256 of the bytes."""
        raise NotImplementedError

    def get_map(self, map_id: str) -> bytes:
        raise NotImplementedError

    @property
    def version(self) -> int:
        raise NotImplementedError
