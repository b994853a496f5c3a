"""An engine directory, verified, in; its contract and tensors out.

engine.json   the contract: format, model shape, inputs and outputs, vocabulary, text pieces, tensor table, SHA-256 of
              the other files and of itself
weights.bin   the tensors, little-endian, one behind the other
codebook.safetensors  (codes, 2): acceleration m/s^2 and curvature 1/m of each action code
selftest.safetensors  recorded inputs and answers (see `drivefoundry_car.update.selftest`)
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
"""m/s^2, of an action code: no car has more."""
AGAIN = "the file is damaged; fetch or quantize the engine again"


@dataclass(frozen=True)
class Files:
    """What an engine directory holds. contract: engine.json; tensors: name -> array; codebook (codes, 2) float."""

    contract: dict[str, Any]
    tensors: dict[str, np.ndarray]
    codebook: np.ndarray


def read(path: Path) -> Files:
    """Engine directory in, Files out. ValueError names the file that is missing, damaged or of another format."""
    contract = checked(_contract(path / CONTRACT), path / CONTRACT)
    content: dict[str, bytes] = {}
    listed: Any = contract.get("files")
    listed = listed if isinstance(listed, dict) else {}
    plain = all(Path(n).name == n and isinstance(d, str) for n, d in listed.items())
    if not plain or not {WEIGHTS, CODEBOOK} <= listed.keys():
        raise ValueError(f"{path / CONTRACT}: files is no table of {WEIGHTS}, {CODEBOOK} and their digests; {AGAIN}")
    for name, digest in listed.items():
        raw = _bytes(path / name)
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError(f"{path / name}: its SHA-256 is not the one in {CONTRACT}; {AGAIN}")
        content[name] = raw
    tensors = _tensors(contract["tensors"], content[WEIGHTS], path / CONTRACT)
    codebook = _codebook(content[CODEBOOK], contract["model"]["codes"], path / CODEBOOK)
    return Files(contract, tensors, codebook)


def _tensors(table: dict[str, Any], weights: bytes, path: Path) -> dict[str, np.ndarray]:
    """The contract's tensor table and the bytes in; the tensors, which lie one behind the other and share no byte, and
    whose floats are finite, out."""
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
            raise ValueError(f"{path.with_name(WEIGHTS)}: {name} holds numbers that are not finite; {AGAIN}")
    spans.sort()
    for (_, end, _), (start, _, name) in itertools.pairwise(spans):
        if start < end:
            raise ValueError(f"{path}: tensors.{name} lies over another tensor; {AGAIN}")
    return found


def _codebook(raw: bytes, codes: int, path: Path) -> np.ndarray:
    """Read drivable accelerations and curvatures (codes, 2) from the bytes of a .safetensors file."""
    book = arrays.from_bytes(raw, path, ["codebook"], AGAIN)["codebook"]
    if book.shape != (codes, 2) or book.dtype not in (np.float32, np.float64):
        raise ValueError(f"{path}: no ({codes}, 2) floats, one row an action code; {AGAIN}")
    if not (
        np.isfinite(book).all() and np.abs(book[:, 0]).max() <= MOST_ACCELERATION and np.abs(book[:, 1]).max() <= 10
    ):
        raise ValueError(
            f"{path}: accelerations up to {MOST_ACCELERATION} m/s^2, curvatures up to 10 1/m are allowed; {AGAIN}"
        )
    return book


def seal(contract: dict[str, Any]) -> bytes:
    """Bytes of engine.json for a contract, including their own digest."""
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
        raise ValueError(f"{path}: its SHA-256 is not the one it states; {AGAIN}")
    return contract


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror}); fetch or quantize the engine again") from e
