"""Simulator state in, camera frames out: S front cameras drawn at once by compiled code.

Letters: S views, M maps, A agents, G signals, H, W image rows and columns. A view depends on nothing but its own
inputs: frames are the same whatever the batch or the number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from drivefoundry.sim.render import World, flatten, render
from drivefoundry.types import RoadMap, require


@dataclass(frozen=True)
class Rig:
    """One pinhole camera on the car.

    width, height px; fx, fy, cx, cy px (pixel i, j spans i..i+1, j..j+1, so a centred axis has cx = width / 2); x, z m
    ahead of and above the box centre on the ground; pitch rad, positive down.
    """

    width: int = 160
    height: int = 64
    fx: float = 95.3
    fy: float = 95.3
    cx: float = 80.0
    cy: float = 28.0
    x: float = 1.0
    z: float = 1.5
    pitch: float = 0.0

    def scaled(self, width: int, height: int) -> Rig:
        """The same mount and horizontal field of view on another image; rows are added or cut evenly about the axis."""
        k = width / self.width
        return Rig(
            width,
            height,
            self.fx * k,
            self.fy * k,
            self.cx * k,
            self.cy / self.height * height,
            self.x,
            self.z,
            self.pitch,
        )


class Camera:
    """Maps and a rig in; `render` gives one frame a view.

    Building one costs some 0.2 s for each new city; cameras on the same maps, or fewer, share what they draw from.
    """

    def __init__(self, maps: list[RoadMap], rig: Rig | None = None, threads: int | None = None) -> None:
        """threads: how many views are drawn at once; all cores (or OMP_NUM_THREADS) where None."""
        require(len(maps) > 0, "Camera: give at least one map")
        self.rig = rig or Rig()
        require(self.rig.width > 0 and self.rig.height > 0, "Rig: width and height must be positive")
        self.maps = maps
        self._world, self._index = _world(maps)
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))

    def render(
        self,
        map_index: np.ndarray,
        ego: np.ndarray,
        agents: np.ndarray,
        valid: np.ndarray,
        size: np.ndarray,
        kind: np.ndarray,
        brake: np.ndarray,
        signals: np.ndarray,
    ) -> np.ndarray:
        """State in, (S, H, W, 3) uint8 RGB out.

        map_index (S,) into the camera's maps; ego (S, 3+) x, y m and yaw rad of the box centre; agents (S, A, 4) x, y,
        yaw, speed; valid (S, A) which to draw (not the ego itself); size (S, A, 3) length, width, height m; kind (S, A)
        AGENT_*; brake (S, A) brake lamps lit; signals (S, G) SIGNAL_* of the map's heads, dark where G falls short.
        Raises ValueError for a pose that is not finite or a map index out of range.
        """
        s, a = valid.shape
        require(
            ego.shape[0] == s and agents.shape == (s, a, 4), f"Camera.render: agents {agents.shape} for {(s, a, 4)}"
        )
        require(size.shape == (s, a, 3), f"Camera.render: size {size.shape} for {(s, a, 3)}")
        require(kind.shape == (s, a) and brake.shape == (s, a), "Camera.render: kind and brake need shape (S, A)")
        require(len(signals) == s and signals.ndim == 2, "Camera.render: signals need shape (S, G)")
        maps = np.ascontiguousarray(map_index, np.int64)
        require(maps.shape == (s,), f"Camera.render: map_index {maps.shape} for {(s,)}")
        require(
            s == 0 or (maps.min() >= 0 and maps.max() < len(self.maps)), "Camera.render: map_index past the last map"
        )
        poses = np.ascontiguousarray(ego[:, :3], np.float64)
        require(bool(np.isfinite(poses).all()), "Camera.render: an ego pose is not finite")
        shown = np.ascontiguousarray(valid, np.bool_)
        require(bool(np.isfinite(agents[shown]).all()), "Camera.render: a valid agent's state is not finite")
        out = np.empty((s, self.rig.height, self.rig.width, 3), np.uint8)
        r = self.rig
        lens = np.array([r.fx, r.fy, r.cx, r.cy, r.x, r.z, r.pitch])
        state = (
            self._index[maps],
            poses,
            np.ascontiguousarray(agents, np.float64),
            shown,
            np.ascontiguousarray(size, np.float64),
            np.ascontiguousarray(kind, np.int64),
            np.ascontiguousarray(brake, np.bool_),
            np.ascontiguousarray(signals, np.int64),
        )
        if self._threads == 1 or s < 4:
            render(out, 0, s, self._world, lens, *state)
            return out
        # Plain threads over a kernel that lets go of the GIL: no OpenMP pool to spin against torch's or break on fork.
        chunk = max(1, -(-s // (4 * self._threads)))
        with ThreadPoolExecutor(self._threads) as pool:
            parts = [(i, min(s, i + chunk)) for i in range(0, s, chunk)]
            for job in [pool.submit(render, out, *part, self._world, lens, *state) for part in parts]:
                job.result()
        return out


_worlds: dict[tuple[str, ...], World] = {}


def _world(maps: list[RoadMap]) -> tuple[World, np.ndarray]:
    """Maps in; surroundings that hold them all and each map's index there out. The last two surroundings are kept."""
    wanted = {m.id: m for m in maps}
    ids = next((ids for ids in _worlds if wanted.keys() <= set(ids)), None)
    if ids is None:
        while len(_worlds) > 1:
            _worlds.pop(next(iter(_worlds)))
        ids = tuple(wanted)
        _worlds[ids] = flatten(list(wanted.values()))
    return _worlds[ids], np.array([ids.index(m.id) for m in maps])
