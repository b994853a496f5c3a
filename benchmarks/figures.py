"""Format figures and targets as one line of JSON, with versions and the machine."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("drivefoundry", "torch", "numpy", "numba", "pylance", "libsumo", "av", "tuf")


def report(
    figures: Mapping[str, float],
    targets: Mapping[str, tuple[float, float, bool]],
    peers: Mapping[str, str] | None = None,
) -> str:
    """One line of figures (units in their names), targets as name -> [value, bound, met], versions (including peers'
    that ran elsewhere) and the machine."""
    told = {
        "figures": {k: v if isinstance(v, int) else float(f"{v:.6g}") for k, v in figures.items()},
        "targets": {k: [float(f"{value:.6g}"), bound, met] for k, (value, bound, met) in targets.items()},
        "versions": versions() | dict(peers or {}),
        "machine": machine(),
    }
    return json.dumps(told)


def best(do: Callable[[], object], times: int) -> float:
    """CPU seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        do()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def versions() -> dict[str, str]:
    """Versions of the software measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str | int | float]:
    """The machine it was measured on."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "load_before_1min": round(LOAD, 2),
    }


LOAD = os.getloadavg()[0]
"""Load by other work at the start."""
