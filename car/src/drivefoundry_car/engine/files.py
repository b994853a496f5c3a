"""Read and verify the files of an engine directory.

engine.json   the contract: format, model shape, inputs and outputs, vocabulary, text pieces, tensor table, SHA-256 of
              the other files and of itself
weights.bin   the tensors, little-endian, without gaps
codebook.safetensors  (codes, 2): acceleration m/s^2 and curvature 1/m of each action code
selftest.safetensors  recorded inputs and outputs (see `drivefoundry_car.update.selftest`)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry_car import arrays
from drivefoundry_car.documents import json_of
from drivefoundry_car.engine.contract import checked

FORMAT = 4
CONTRACT, WEIGHTS, CODEBOOK = "engine.json", "weights.bin", "codebook.safetensors"
DTYPES = {"int8": "<i1", "int16": "<i2", "float32": "<f4"}
MOST_ACCELERATION = 100
"""Upper bound of action codes, m/s^2, which no car exceeds."""
AGAIN = "the file is damaged; fetch or quantize the engine again"


@dataclass(frozen=True)
class Files:
    """Contents of an engine directory. contract: engine.json; tensors: name -> array; codebook (codes, 2) float."""

    contract: dict[str, Any]
    tensors: dict[str, np.ndarray]
    codebook: np.ndarray


def read(path: Path) -> Files:
    """Read an engine directory. ValueError names the file that is missing, damaged or in another format."""
    contract = checked(_contract(path / CONTRACT), path / CONTRACT)
    content: dict[str, bytes] = {}
    listed: Any = contract.get("files")
    listed = listed if isinstance(listed, dict) else {}
    plain = all(Path(n).name == n and isinstance(d, str) for n, d in listed.items())
    if not plain or not {WEIGHTS, CODEBOOK} <= listed.keys():
        raise ValueError(f"{path / CONTRACT}: files must map {WEIGHTS} and {CODEBOOK} to their digests; {AGAIN}")
    for name, digest in listed.items():
        raw = _bytes(path / name)
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError(f"{path / name}: its SHA-256 does not match {CONTRACT}; {AGAIN}")
        content[name] = raw
    tensors = _tensors(contract["tensors"], content[WEIGHTS], path / CONTRACT)
    codebook = _codebook(content[CODEBOOK], contract["model"]["codes"], path / CODEBOOK)
    return Files(contract, tensors, codebook)


def _tensors(table: dict[str, Any], weights: bytes, path: Path) -> dict[str, np.ndarray]:
    """Tensors of the contract's table, read from the bytes; they must not overlap, and their floats must be finite."""
    found, spans = {}, []
    kind: Any
    shape: Any
    for name, entry in table.items():
        kind, shape, offset = entry if isinstance(entry, list) and len(entry) == 3 else (None, [], None)
        sizes = isinstance(shape, list) and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(kind, str) or kind not in DTYPES or not sizes or type(offset) is not int or offset < 0:
            raise ValueError(f"{path}: tensors.{name} is not a type, shape and offset; {AGAIN}")
        form, count = np.dtype(DTYPES[kind]), math.prod(shape)
        if offset + count * form.itemsize > len(weights):
            raise ValueError(f"{path}: tensors.{name} does not lie within {WEIGHTS}; {AGAIN}")
        spans.append((offset, offset + count * form.itemsize, name))
        found[name] = np.frombuffer(weights, form, count, offset).reshape(shape)
        if kind == "float32" and not np.isfinite(found[name]).all():
            raise ValueError(f"{path.with_name(WEIGHTS)}: {name} has values that are not finite; {AGAIN}")
    spans.sort()
    for (_, end, _), (start, _, name) in itertools.pairwise(spans):
        if start < end:
            raise ValueError(f"{path}: tensors.{name} overlaps another tensor; {AGAIN}")
    return found


def _codebook(raw: bytes, codes: int, path: Path) -> np.ndarray:
    """Read a codebook (codes, 2) from the bytes of a .safetensors file and check its accelerations and curvatures."""
    book = arrays.from_bytes(raw, path, ["codebook"], AGAIN)["codebook"]
    if book.shape != (codes, 2) or book.dtype not in (np.float32, np.float64):
        raise ValueError(f"{path}: must hold ({codes}, 2) floats, one row per action code; {AGAIN}")
    if not (
        np.isfinite(book).all() and np.abs(book[:, 0]).max() <= MOST_ACCELERATION and np.abs(book[:, 1]).max() <= 10
    ):
        raise ValueError(
            f"{path}: must have accelerations <= {MOST_ACCELERATION} m/s^2 and curvatures <= 10 1/m; {AGAIN}"
        )
    return book


def seal(contract: dict[str, Any]) -> bytes:
    """Bytes of engine.json for a contract, including its own digest."""
    return json.dumps({**contract, "sha256": _digest(contract)}, indent=1, ensure_ascii=False).encode()


def _digest(contract: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()


def _contract(path: Path) -> dict[str, Any]:
    contract = json_of(_bytes(path), path, AGAIN)
    if not isinstance(contract, dict) or "format" not in contract:
        raise ValueError(f"{path}: not an engine's contract; `drivefoundry run --until quantize` makes an engine")
    if contract["format"] != FORMAT:
        raise ValueError(f"{path}: format {contract['format']}, this car reads {FORMAT}; update drivefoundry-car")
    if contract.pop("sha256", None) != _digest(contract):
        raise ValueError(f"{path}: its SHA-256 does not match the one it states; {AGAIN}")
    return contract


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror}); fetch or quantize the engine again") from e
