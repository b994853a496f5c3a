"""The compiled kernels as one class that computes plan codes and reasoning ids from weights and inputs."""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
REBUILD = "build it with `pip install -e car`"
SHAPE = (
    "patch", "dim", "layers", "heads", "kv_heads", "head_dim", "ffn", "text_vocab", "max_text",
    "plan", "task", "think", "act", "bidirectional",
)  # fmt: skip
MATRICES = ("stem.cell", "stem.patch", "ego_in", "ego_out", "route_in", "route_out", "embed.text", "embed.codes")
LAYER = ("q", "kv", "o", "gate_up", "down")
TABLES = ("embed", "position", "rope", "votes", "codebook")
INT16, INT32 = 32767, 2**31 - 1


@cache
def library() -> ctypes.CDLL:
    """The library, loaded once. ImportError if it was not built, or was built from different sources."""
    path = HERE / "_kernels.so"
    if not path.exists():
        raise ImportError(f"{path}: the engine's kernels are not built; {REBUILD}")
    lib = ctypes.CDLL(str(path))
    lib.engine_source.restype = ctypes.c_char_p
    sources = [HERE / "kernels.cpp", HERE / "forward.h"]
    if all(s.exists() for s in sources):
        digest = hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()
        if lib.engine_source().decode() != digest:
            raise ImportError(f"{path}: built from other sources than those beside it; {REBUILD}")
    p, i = ctypes.c_void_p, ctypes.c_int
    lib.engine_new.restype, lib.engine_new.argtypes = p, [p, p, i, ctypes.c_char_p]
    lib.engine_takes.restype, lib.engine_takes.argtypes = i, [p, p, i]
    lib.engine_free.restype, lib.engine_free.argtypes = None, [p]
    lib.engine_linear.restype, lib.engine_linear.argtypes = i, [p, i, i, i, ctypes.c_float, p, p, p]
    lib.engine_floats.restype, lib.engine_floats.argtypes = i, [p, i, p, ctypes.c_int64]
    lib.engine_run.restype, lib.engine_run.argtypes = i, [p, p, p, p, p, i, i, i, p, p]
    return lib


class Kernels:
    """One loaded model.

    shape: values of SHAPE; pictures: height and width of each camera's, px; instructions: "" for the CPU's best, or
    "avx512", "avx2", "plain"; they differ only in speed. ValueError if the CPU lacks them.
    """

    def __init__(self, shape: Mapping[str, int], pictures: Sequence[tuple[int, int]], instructions: str = ""):
        self._lib = library()
        self.shape = dict(shape)
        values = np.array([shape[name] for name in SHAPE], np.int32)
        px = np.array(pictures, np.int32)
        self._engine = self._lib.engine_new(values.ctypes.data, px.ctypes.data, len(px), instructions.encode())
        if not self._engine:
            takes = bool(self._lib.engine_takes(values.ctypes.data, px.ctypes.data, len(px)))
            _require(takes, f"no model has the shape {self.shape} for pictures of {px.tolist()}")
            raise ValueError(f"instructions {instructions!r}: unknown, or not supported by this CPU; leave them out")
        weakref.finalize(self, self._lib.engine_free, self._engine)

    def matrix(self, place: int, weights: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, limit: float) -> None:
        """Set a matrix: weights (out, in) int8 or int16, `in` a multiple of 16; scale, bias (out,); limit: see
        `activation_limit`."""
        out, into = weights.shape
        assert into % 16 == 0
        assert scale.shape == (out,)
        w = np.ascontiguousarray(weights, np.int16)
        s = np.ascontiguousarray(scale, np.float32)
        b = np.zeros(out, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
        failed = self._lib.engine_linear(
            self._engine, place, out, into, limit, w.ctypes.data, s.ctypes.data, b.ctypes.data
        )  # fmt: skip
        _require(not failed, f"matrix {place}: ({out}, {into}) does not match this model's shape")

    def floats(self, place: int, values: np.ndarray) -> None:
        """Set a table (by its index in TABLES) or a norm's gain (after those, in order)."""
        v = np.ascontiguousarray(values, np.float32)
        failed = self._lib.engine_floats(self._engine, place, v.ctypes.data, v.size)
        _require(not failed, f"table {place}: {v.size} numbers do not match this model's shape")

    def run(
        self,
        frames: Sequence[np.ndarray],
        ego: np.ndarray,
        route: np.ndarray,
        speed: np.ndarray,
        reason: bool,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (B, plan) int32 and their controls (B, plan, 2) float32; or reasoning ids (B, max_text) and zeros.

        frames: for each camera (B, 2, H, W, 3) uint8; ego and route (B, inputs of their layers) and speed (B,) m/s
        float32; all contiguous. MemoryError if allocation fails.
        """
        out = np.zeros((len(ego), self.shape["max_text" if reason else "plan"]), np.int32)
        views = np.array([f.ctypes.data for f in frames], np.uintp)
        controls = np.zeros((len(ego), self.shape["plan"], 2), np.float32)
        failed = self._lib.engine_run(
            self._engine, views.ctypes.data, ego.ctypes.data, route.ctypes.data, speed.ctypes.data, len(ego),
            threads, int(reason), out.ctypes.data, controls.ctypes.data,
        )  # fmt: skip
        _require(failed != 2, "a matrix or table is missing")
        if failed:
            raise MemoryError(f"engine: no memory to work in for {len(ego)} scenes")
        return out, controls


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise ValueError(f"engine: {what}; quantize the engine again")


def activation_limit(*weights: np.ndarray) -> float:
    """The largest integer activation for which no sum over a row of these matrices overflows int32."""
    most = max(int(np.abs(w.astype(np.int64)).sum(1).max(initial=1)) for w in weights)
    return float(min(INT16, INT32 // most))
