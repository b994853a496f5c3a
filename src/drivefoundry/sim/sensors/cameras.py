"""The cameras of simulated cars, drawn by `render.camera`."""

from __future__ import annotations

import numpy as np

from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.sim.simulator import Simulator
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment


class CameraRig:
    """The cameras of S cars, and the frames for decisions; see `simulator.Cameras`."""

    def __init__(self, simulator: Simulator, body: Embodiment = CAR):
        self.simulator, self.body = simulator, body
        self._packed = p = simulator.packed
        maps = list({s.map.id: s.map for s in p.scenes}.values())
        index = {m.id: i for i, m in enumerate(maps)}
        self._map_index = np.array([index[s.map.id] for s in p.scenes])
        sizes = {size: [c for c in body.cameras if (c.height, c.width) == size] for size in body.pictures.values()}
        self._renderers = [([c.name for c in some], Renderer(maps, Rig.of(some))) for some in sizes.values()]
        self._seen: tuple[int, dict[str, np.ndarray]] | None = None
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def look(self) -> dict[str, np.ndarray]:
        """Camera -> (S, H, W, 3) current picture; repeated calls within a step render once."""
        w, p = self.simulator, self._packed
        if self._seen is None or self._seen[0] != w.step:
            seen = Snapshot(self._map_index, w.ego, w.agents, w.seen, p.size, p.kind, w.brake, w.signals_now())
            self._seen = w.step, self._drawn(seen)
        return self._seen[1]

    def render_history(self, steps: int) -> dict[str, np.ndarray]:
        """Render the pictures of `steps` steps before the start, from the logs."""
        w, p = self.simulator, self._packed
        n = np.arange(len(p.start))
        t = p.start - steps
        brake = p.tracks[n, :, t, 3] < 0.2
        ego, tracks, valid, signals = w.past[-1 - steps], p.tracks[n, :, t], p.valid[n, :, t], p.signals[n, :, t]
        return self._drawn(Snapshot(self._map_index, ego, tracks, valid, p.size, p.kind, brake, signals))

    def _drawn(self, seen: Snapshot) -> dict[str, np.ndarray]:
        out = {}
        for names, renderer in self._renderers:
            pictures = renderer.render(seen)
            out |= {name: pictures[:, i] for i, name in enumerate(names)}
        return {name: out[name] for name in self.body.pictures}

    def watch(self) -> None:
        """Keep this step's frames if a decision will need them."""
        every, back, step = self.body.decision_steps, self.body.frame_steps, self.simulator.step
        if step == 0:
            self._kept = {-n: self.render_history(n) for n in range(1, back + 1) if (back - n) % every == 0}
        if step % every == 0 or (step + back) % every == 0:
            self._kept[step] = self.look()
        for old in [kept for kept in self._kept if kept < step - back]:
            del self._kept[old]

    def read(self) -> dict[str, np.ndarray]:
        """Camera -> (S, 2, H, W, 3), `frame_dt` ago and now."""
        step = self.simulator.step
        before, now = self._kept[step - self.body.frame_steps], self._kept[step]
        return {name: np.stack([before[name], now[name]], 1) for name in now}
