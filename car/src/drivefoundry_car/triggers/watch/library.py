"""Load the compiled library once."""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("kernels.cpp", "rules.h", "around.h")
REBUILD = "build it with `pip install -e car`"


@cache
def library() -> ctypes.CDLL:
    """Return the library. ImportError if it was never built, or from other sources than those present."""
    path = HERE / "_kernels.so"
    if not path.exists():
        raise ImportError(f"{path}: the rule kernels are not built; {REBUILD}")
    lib = ctypes.CDLL(str(path))
    lib.watch_source.restype = ctypes.c_char_p
    sources = [HERE / name for name in SOURCES]
    if all(s.exists() for s in sources):
        digest = hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()
        if lib.watch_source().decode() != digest:
            raise ImportError(f"{path}: built from different sources than those beside it; {REBUILD}")
    p, i, n, d = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
    lib.watch_new.restype, lib.watch_new.argtypes = p, [p, i, p, p, i, d]
    lib.watch_free.restype, lib.watch_free.argtypes = None, [p]
    lib.watch_reset.restype, lib.watch_reset.argtypes = None, [p]
    lib.watch_run.restype, lib.watch_run.argtypes = n, [p, p, p, n, p]
    lib.watch_fired.restype, lib.watch_fired.argtypes = p, [p]
    lib.watch_around.restype, lib.watch_around.argtypes = i, [p, n, d, d, p, p, p, p, i, p]
    lib.watch_place.restype, lib.watch_place.argtypes = i, [p, n, p, n, p]
    lib.watch_nearest.restype, lib.watch_nearest.argtypes = i, [p, n, i, p, n, p]
    return lib
