"""Read and write named arrays as .safetensors files (the Hugging Face format: a JSON table, then the bytes)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.types import require
from drivefoundry_car.documents import json_object

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
LARGEST_HEADER = 100_000_000
"""Bytes, as in the format's own library."""
_AGAIN = "the file is damaged, make it again"


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one float32 .safetensors file."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + 4 * array.size]}
        at += 4 * array.size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for array in tensors.values():
            f.write(np.ascontiguousarray(array, "<f4").tobytes())
        f.flush()
        os.fsync(f.fileno())


class TensorFile:
    """A .safetensors file of F32, F16 or BF16: a checked table of tensors, each read as float32 on demand.

    ValueError if the file is truncated, or its tensors overlap or leave bytes unused.
    """

    def __init__(self, path: Path):
        self.path = path
        self._raw = np.memmap(path, np.uint8, "r") if path.stat().st_size >= 8 else np.zeros(8, np.uint8)
        self._start = 8 + int.from_bytes(self._raw[:8].tobytes(), "little")
        require(10 <= self._start <= len(self._raw), f"{path}: truncated header; {_AGAIN}")
        fits = self._start <= LARGEST_HEADER
        require(fits, f"{path}: the header has {self._start:,} bytes; must be at most {LARGEST_HEADER:,}")
        self._table = _table(path, self._raw[8 : self._start].tobytes(), len(self._raw) - self._start)

    @property
    def names(self) -> list[str]:
        return list(self._table)

    def read(self, name: str) -> np.ndarray:
        """Read one tensor. ValueError if the name is unknown, or its type is not one of the three."""
        require(name in self._table, f"{self.path}: no tensor {name}")
        kind, shape, lo, hi = self._table[name]
        require(kind in WIDTHS, f"{self.path}: tensor {name} is {kind}, must be one of {', '.join(WIDTHS)}")
        full = hi - lo == WIDTHS[kind] * math.prod(shape)
        require(full, f"{self.path}: tensor {name} does not fill its shape {shape}; {_AGAIN}")
        return _float32(self._raw[self._start + lo : self._start + hi], kind).reshape(shape)


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read a .safetensors file's arrays, or those with the given names, as float32. Errors as `TensorFile`."""
    held = TensorFile(path)
    return {name: held.read(name) for name in (held.names if names is None else names)}


def _table(path: Path, header: bytes, size: int) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Parse a header into name -> type, shape, begin and end; the tensors must fill `size` bytes without gaps."""
    entries, table = json_object(header, path, _AGAIN), {}
    entries.pop("__metadata__", None)
    shape: Any
    span: Any
    for name, entry in entries.items():
        entry = entry if isinstance(entry, dict) else {}
        kind, shape, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        lists = isinstance(kind, str) and isinstance(shape, list) and isinstance(span, list) and len(span) == 2
        plain = lists and all(type(n) is int and n >= 0 for n in (*shape, *span))
        require(plain, f"{path}: tensor {name[:80]!r} has no type, shape and data_offsets; {_AGAIN}")
        lo, hi = span
        require(lo <= hi <= size, f"{path}: tensor {name} is truncated; make the file again")
        table[name] = (kind, tuple(shape), lo, hi)
    at = 0
    for name, (_, _, lo, hi) in sorted(table.items(), key=lambda entry: entry[1][2:]):
        require(lo == at, f"{path}: tensor {name} begins at byte {lo}, where the one before it ends at {at}; {_AGAIN}")
        at = hi
    require(at == size, f"{path}: {size - at} bytes belong to no tensor; {_AGAIN}")
    return table


def _float32(raw: np.ndarray, kind: str) -> np.ndarray:
    """Decode the bytes of one tensor into a new array; bfloat16 is the upper half of a float32."""
    raw = np.array(raw)
    if kind == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32, copy=False)
