"""Named arrays in, one .safetensors file out, and back (the Hugging Face format: a JSON table, then the bytes)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from drivefoundry.types import require

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Named arrays in, one float32 .safetensors file out."""
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


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """A .safetensors file of F32, F16 or BF16 in; its arrays, or those of the given names, as float32 out.

    Raises ValueError where the file is cut short, lacks a name or holds another type.
    """
    raw = np.memmap(path, np.uint8, "r") if path.stat().st_size >= 8 else np.zeros(8, np.uint8)
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    require(10 <= start <= len(raw), f"{path}: truncated header; the file is damaged, make it again")
    try:
        header = json.loads(raw[8:start].tobytes())
        header.pop("__metadata__", None)
        table = {
            k: (str(v["dtype"]), tuple(map(int, v["shape"])), *map(int, v["data_offsets"])) for k, v in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: the header is no table of tensors; the file is damaged, make it again") from None
    out = {}
    for name in table if names is None else names:
        require(name in table, f"{path}: no tensor {name}")
        kind, shape, lo, hi = table[name]
        require(kind in WIDTHS, f"{path}: tensor {name} is {kind}, wanted one of {', '.join(WIDTHS)}")
        require(0 <= lo <= hi and start + hi <= len(raw), f"{path}: tensor {name} is cut short; make the file again")
        full = min(shape, default=0) >= 0 and hi - lo == WIDTHS[kind] * math.prod(shape)
        require(full, f"{path}: tensor {name} does not fill its shape {shape}; the file is damaged, make it again")
        out[name] = _float32(raw[start + lo : start + hi], kind).reshape(shape)
    return out


def _float32(raw: np.ndarray, kind: str) -> np.ndarray:
    """Bytes of one tensor in, a copy of its numbers out; bfloat16 is the upper half of a float32."""
    raw = np.array(raw)
    if kind == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32, copy=False)
