"""Named arrays as one .safetensors file with canonical bytes.

Equal arrays give equal bytes, independent of insertion order, memory layout, byte order and the Python and numpy that
wrote them (headers of .npy and .npz files vary with both). A file's hash can therefore stand for its content. Strings
do not belong here; keep them as JSON beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

_AGAIN = "the file is damaged; make it again"
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The canonical bytes of named arrays."""
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    return save({name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in plain.items()})


def from_bytes(data: bytes, source: object, names: Iterable[str] = (), again: str = _AGAIN) -> dict[str, np.ndarray]:
    """Arrays by name, sorted by name. ValueError if `data` is not such a file, or lacks one of `names`; source: its
    name in the message; again: how to obtain an intact one."""
    try:
        found = load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{source}: not an intact .safetensors file ({error}); {again}") from None
    _require(found, source, names, again)
    return {name: found[name] for name in sorted(found)}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to a file."""
    path.write_bytes(to_bytes(arrays))


def read(path: Path, names: Iterable[str] = (), again: str = _AGAIN) -> dict[str, np.ndarray]:
    """Read a file's arrays into memory. Raises as `from_bytes`, and OSError if the file cannot be read."""
    return from_bytes(path.read_bytes(), path, names, again)


def mapped(path: Path, names: Iterable[str] = (), again: str = _AGAIN) -> dict[str, np.ndarray]:
    """A file's arrays, read-only, left on disk until they are used. Raises as `read`."""
    try:
        with safe_open(path, "np"):  # checks the header: types, shapes, and that tensors fill the file without overlap
            pass
        raw = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
        header.pop("__metadata__", None)
        found = {}
        for name in sorted(header):
            about = header[name]
            lo, hi = about["data_offsets"]
            found[name] = raw[start + lo : start + hi].view(_DTYPES[about["dtype"]]).reshape(about["shape"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: not an intact .safetensors file ({error}); {again}") from None
    _require(found, path, names, again)
    return found


def _require(found: Mapping[str, np.ndarray], source: object, names: Iterable[str], again: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{source}: has no array {missing[0]!r}; {again}")
