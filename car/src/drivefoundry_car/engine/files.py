"""An engine directory, verified, in; its contract and tensors out.

engine.json   the contract: format, model shape, inputs and outputs, vocabulary, text pieces, tensor table, SHA-256 of
              the other files and of itself
weights.bin   the tensors, little-endian, one behind the other
codebook.npy  (codes, 2): acceleration m/s^2 and curvature 1/m of each action code
selftest.npz  recorded inputs and answers (see `drivefoundry_car.selftest`)
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 2
CONTRACT, WEIGHTS, CODEBOOK = "engine.json", "weights.bin", "codebook.npy"
DTYPES = {"int8": "<i1", "int16": "<i2", "float32": "<f4"}
AGAIN = "the file is damaged; fetch or shrink the engine anew"


@dataclass(frozen=True)
class Files:
    """What an engine directory holds. contract: engine.json; tensors: name -> array; codebook (codes, 2) float."""

    contract: dict[str, Any]
    tensors: dict[str, np.ndarray]
    codebook: np.ndarray


def read(path: Path) -> Files:
    """Engine directory in, Files out. ValueError names the file that is missing, damaged or of another format."""
    contract = _contract(path / CONTRACT)
    content = {}
    for name, digest in contract["files"].items():
        raw = _bytes(path / name)
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError(f"{path / name}: its SHA-256 is not the one in {CONTRACT}; {AGAIN}")
        content[name] = raw
    weights, tensors = content[WEIGHTS], {}
    for name, (dtype, shape, offset) in contract["tensors"].items():
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(weights, DTYPES[dtype], count, offset).reshape(shape)
    return Files(contract, tensors, np.load(io.BytesIO(content[CODEBOOK]), allow_pickle=False))


def seal(contract: dict[str, Any]) -> bytes:
    """A contract in, the bytes of engine.json, with a digest of themselves, out."""
    return json.dumps({**contract, "sha256": _digest(contract)}, indent=1, ensure_ascii=False).encode()


def _digest(contract: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()


def _contract(path: Path) -> dict[str, Any]:
    try:
        contract = json.loads(_bytes(path))
    except ValueError as e:
        raise ValueError(f"{path}: no JSON ({e}); {AGAIN}" if path.exists() else str(e)) from e
    if not isinstance(contract, dict) or "format" not in contract:
        raise ValueError(f"{path}: not an engine's contract; `drivefoundry run --until shrink` makes an engine")
    if contract["format"] != FORMAT:
        raise ValueError(f"{path}: format {contract['format']}, this car reads {FORMAT}; update drivefoundry-car")
    if contract.pop("sha256", None) != _digest(contract):
        raise ValueError(f"{path}: its SHA-256 is not the one it states; {AGAIN}")
    return contract


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror}); fetch or shrink the engine anew") from e
