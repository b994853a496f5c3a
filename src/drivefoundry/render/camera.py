"""Camera frames of simulator state: the cameras of S cars drawn at once by compiled code.

Letters: S scenes, V views per car, M maps, A agents, G signals, H, W image rows and columns. A picture depends only on
its own inputs: frames are the same for any batch and number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from drivefoundry.render.conditions import COLUMNS, Conditions
from drivefoundry.render.kernels.draw import StaticWorld, flatten, render
from drivefoundry.render.rig import Rig
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.types import RoadMap, require


class Renderer:
    """Renderer of one frame per view of a rig, on given maps.

    Construction takes about 0.2 s per new city; renderers of the same maps, or a subset, share what they draw from.
    """

    def __init__(self, maps: list[RoadMap], rig: Rig | None = None, threads: int | None = None) -> None:
        """threads: number of scenes drawn at once; None for all cores (or OMP_NUM_THREADS)."""
        require(len(maps) > 0, "Renderer: give at least one map")
        self.rig = rig or Rig.front()
        self.maps = maps
        self._world, self._index = _world(maps)
        self._lenses, self._warps = _optics(self.rig)
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        self._pool: ThreadPoolExecutor | None = None

    def render(
        self, seen: Snapshot, *, conditions: Sequence[Conditions] | None = None, step: int | np.ndarray = 0
    ) -> np.ndarray:
        """Render (S, V, H, W, 3) uint8 RGB.

        conditions: light and weather of each scene, a clear day if None; step: the 10 Hz step of all scenes or of each
        (S,), with which indicators blink. Noise and rain depend only on a scene's seed, the view and the step.
        ValueError for a snapshot that `Snapshot.checked` refuses, or conditions or steps of another number of scenes.
        """
        seen = seen.checked(len(self.maps))
        s = len(seen.ego)
        require(np.ndim(step) == 0 or np.shape(step) == (s,), f"Renderer.render: step {np.shape(step)} for {(s,)}")
        skies = np.zeros((s, COLUMNS))
        if conditions is not None:
            require(len(conditions) == s, f"Renderer.render: {len(conditions)} conditions for {s} scenes")
            skies[:] = [c.row() for c in conditions]
        out = np.empty((s, len(self.rig.views), self.rig.height, self.rig.width, 3), np.uint8)
        steps = np.broadcast_to(np.asarray(step, np.int64), (s,)).copy()
        drawn = [array for array in seen[1:] if array is not None]
        self._fill(out, self._index[seen.map_index], *drawn, skies, steps)
        return out

    def _fill(self, out: np.ndarray, *state: np.ndarray) -> None:
        """Draw all scenes, several at once."""
        s, fixed = len(out), (self._world, self._lenses, self._warps)
        if self._threads == 1 or s < 4:
            render(out, 0, s, *fixed, *state)
            return
        # Plain threads over a kernel that releases the GIL: no OpenMP pool that competes with torch's or breaks on
        # fork.
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        # Chunks shrink towards the end, so that no thread waits long for another (Polychronopoulos and Kuck 1987).
        starts = [0]
        while starts[-1] < s:
            starts.append(min(s, starts[-1] + max(2, (s - starts[-1]) // (2 * self._threads))))
        for job in [self._pool.submit(render, out, *part, *fixed, *state) for part in pairwise(starts)]:
            job.result()


def _optics(rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """Lenses (V, 13) of a rig, and warps (n, H, W, 2) of its n views that need warping, as `render` takes them."""
    lenses, warps = [], []
    for view in rig.views:
        drawn, row = view, -1
        if view.warped:
            (drawn, at), row = view.sampling(), len(warps)
            warps.append(at)
        lens = (drawn.fx, drawn.fy, drawn.cx, drawn.cy, drawn.x, drawn.y, drawn.z, drawn.yaw, drawn.pitch)
        lenses.append((*lens, drawn.width, drawn.height, drawn.samples, row))
    return np.array(lenses, np.float64), np.array(warps, np.float32).reshape(-1, rig.height, rig.width, 2)


_worlds: dict[tuple[str, ...], StaticWorld] = {}


def _world(maps: list[RoadMap]) -> tuple[StaticWorld, np.ndarray]:
    """Static surroundings that include all the maps, and each map's index in them; the last two are cached."""
    requested = {m.id: m for m in maps}
    ids = next((ids for ids in _worlds if requested.keys() <= set(ids)), None)
    if ids is None:
        while len(_worlds) > 1:
            _worlds.pop(next(iter(_worlds)))
        ids = tuple(requested)
        _worlds[ids] = flatten(list(requested.values()))
    return _worlds[ids], np.array([ids.index(m.id) for m in maps])
