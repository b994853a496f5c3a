"""The last seconds of a running car as a Drive, from which signals are derived."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from drivefoundry_car.log.channels import STATE_FIELDS
from drivefoundry_car.log.drive import Drive, Objects, Plans
from drivefoundry_car.triggers.signals import LOOKBACK_S
from drivefoundry_car.vehicle.codec import STEPS

EDGE_S = 1e-6


@dataclass(frozen=True)
class Moment:
    """What a car knows at time t, s. None: unknown; latched values are repeated at each moment.

    ego (7,) as in `log.Drive.ego`; route (R, 3) as in `Drive.route`; objects: current tracks, states (O, 1, 4) and
    valid (O, 1); signals: ids (G,) and states (G,) as in `Drive`; engaged: the model drives; takeover: the safety
    driver has just taken over; pick: somebody requests a clip of this moment. plan, correction (8, 3), ego frame: what
    the model, even if it only shadows, and the safety driver decided at this moment, None if nothing was decided;
    text: reasoning of the plan. cameras: name -> encoded packet, or frame (H, W, 3) uint8 RGB to encode.
    """

    t: float
    ego: np.ndarray
    route: np.ndarray | None = None
    objects: Objects | None = None
    signals: tuple[np.ndarray, np.ndarray] | None = None
    engaged: bool | None = None
    takeover: bool | None = None
    pick: bool = False
    plan: np.ndarray | None = None
    correction: np.ndarray | None = None
    text: str = ""
    cameras: Mapping[str, bytes | np.ndarray] = field(default_factory=dict)


class Recent:
    """The last LOOKBACK_S of one car. meta: the drive's; ego_size: length, width, height m."""

    def __init__(self, meta: Mapping[str, str], ego_size: tuple[float, float, float]) -> None:
        self.meta, self.ego_size = dict(meta), ego_size
        self._moments: deque[Moment] = deque()

    def push(self, now: Moment) -> Drive:
        """Add a moment; return the drive up to it, for `signals.latest`: the newest sample is complete, earlier ones
        have only what its signals depend on. ValueError if t does not increase or ego is not a state."""
        last = self._moments[-1].t if self._moments else -np.inf
        if not now.t > last:
            raise ValueError(f"t: must increase, got {now.t} s after {last} s")
        if np.shape(now.ego) != (len(STATE_FIELDS),):
            raise ValueError(f"ego: must be ({', '.join(STATE_FIELDS)}), got shape {np.shape(now.ego)}")
        self._moments.append(now)
        while self._moments[0].t < now.t - LOOKBACK_S - EDGE_S:
            self._moments.popleft()
        steps = len(self._moments)
        meta, picks = self.meta, [m.t for m in self._moments if m.pick]
        if picks:
            meta = {**meta, "picks": " ".join(map(repr, picks))}
        signal_id, state = (None, None) if now.signals is None else map(np.asarray, now.signals)
        return Drive(
            meta,
            np.array([m.t for m in self._moments], np.float64),
            np.array([m.ego for m in self._moments], np.float64),
            self.ego_size,
            route=now.route,
            objects=self._objects(),
            signal_id=signal_id,
            signal_state=None if state is None else np.repeat(state[:, None], steps, axis=1),
            engaged=None if now.engaged is None else np.full(steps, now.engaged),
            takeover=None if now.takeover is None else np.full(steps, now.takeover),
            plan=_plans([(m.t, m.plan) for m in self._moments if m.plan is not None]),
            correction=_plans([(m.t, m.correction) for m in self._moments if m.correction is not None]),
        )

    def _objects(self) -> Objects | None:
        """Tracks of the newest moment and the one before: the surroundings at a sample depend on no others."""
        now = self._moments[-1].objects
        if now is None:
            return None
        steps = len(self._moments)
        before = self._moments[-2].objects if steps > 1 else None
        known = [o for o in (before, now) if o is not None]
        track, first = np.unique(np.concatenate([o.track for o in reversed(known)]), return_index=True)
        kind, size = (np.concatenate([getattr(o, n) for o in reversed(known)])[first] for n in ("kind", "size"))
        states, valid = np.zeros((len(track), steps, 4), np.float32), np.zeros((len(track), steps), bool)
        for o, step in zip(known, range(steps - len(known), steps), strict=True):
            row = np.searchsorted(track, o.track)
            states[row, step], valid[row, step] = o.states[:, 0], o.valid[:, 0]
        return Objects(track, kind, size, states, valid)


def _plans(decided: list[tuple[float, np.ndarray]]) -> Plans:
    points = np.array([p for _, p in decided], np.float32) if decided else np.zeros((0, STEPS, 3), np.float32)
    return Plans(np.array([t for t, _ in decided], np.float64), points, [""] * len(decided))


def moments(drive: Drive) -> Iterator[Moment]:
    """What a stored drive's car knew at each step, except pictures, which have their own times.

    Plans and picks belong to the first step at or after their time; those after the last step are left out.
    """
    decided = [_decided(drive, plans) for plans in (drive.plan, drive.correction)]
    picks = set(_steps(drive, np.array(drive.meta.get("picks", "").split(), np.float64)))
    flags = [None if f is None else f.tolist() for f in (drive.engaged, drive.takeover)]
    o, lights = drive.objects, drive.signal_state
    of = () if o is None else (o.states, o.valid)
    for i, t in enumerate(drive.t.tolist()):
        here = np.flatnonzero(o.valid[:, i]) if o is not None else []
        yield Moment(
            t,
            drive.ego[i],
            drive.route,
            None
            if o is None
            else Objects(o.track[here], o.kind[here], o.size[here], *(a[here, i : i + 1] for a in of)),
            None if lights is None or drive.signal_id is None else (drive.signal_id, lights[:, i]),
            *(None if f is None else f[i] for f in flags),
            pick=i in picks,
            plan=decided[0].get(i, (None, ""))[0],
            correction=decided[1].get(i, (None, ""))[0],
            text=decided[0].get(i, (None, ""))[1],
        )


def _steps(drive: Drive, t: np.ndarray) -> list[int]:
    """Index of the first step at or after each time."""
    return np.searchsorted(drive.t, t - EDGE_S).tolist()


def _decided(drive: Drive, plans: Plans | None) -> dict[int, tuple[np.ndarray, str]]:
    if plans is None:
        return {}
    return dict(zip(_steps(drive, plans.t), zip(plans.points, plans.text, strict=True), strict=True))
