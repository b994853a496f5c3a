"""Named arrays of model weights in .safetensors files, read as float32."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from drivefoundry.types import require
from drivefoundry_car import arrays

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one float32 .safetensors file."""
    with path.open("wb") as f:
        f.write(arrays.to_bytes({name: np.asarray(array, np.float32) for name, array in tensors.items()}))
        f.flush()
        os.fsync(f.fileno())


class TensorFile:
    """A .safetensors file of F32, F16 or BF16, each tensor read as float32 on demand.

    ValueError if the file is truncated, or its tensors overlap or leave bytes unused.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not an intact .safetensors file ({str(error)[:200]}); make or fetch the file again"
            ) from None
        self.names: list[str] = list(self._file.keys())

    def read(self, name: str) -> np.ndarray:
        """Read one tensor. ValueError if the name is unknown, or its type is not one of the three."""
        require(name in self.names, f"{self.path}: no tensor {name}")
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, RuntimeError) as error:  # types that torch does not know
            raise ValueError(f"{self.path}: tensor {name[:80]} cannot be read ({str(error)[:200]})") from None
        known = ", ".join(TYPES.values())
        require(tensor.dtype in TYPES, f"{self.path}: tensor {name} is {tensor.dtype}, must be one of {known}")
        return tensor.to(torch.float32, copy=True).numpy()  # not a view of the mapped file


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read a .safetensors file's arrays, or those with the given names, as float32. Errors as `TensorFile`."""
    held = TensorFile(path)
    return {name: held.read(name) for name in (held.names if names is None else names)}
