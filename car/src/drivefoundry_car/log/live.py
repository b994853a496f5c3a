"""Resample channels of a running car, each with its own clock, to a drive's arrays on the 10 Hz grid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate

from drivefoundry_car.log.channels import DRIVER, KIND_NAMES, NS, OBJECTS, SIGNALS
from drivefoundry_car.log.clock import DT


def objects(
    messages: list[bytes], ns: list[int], t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Resample SceneUpdates to track, kind, size, states and valid as in `log.Objects`.

    A step takes the nearest message within DT / 2, with objects extrapolated to the step at their own speed.
    """
    kind_of, size_of = dict[int, int](), dict[int, tuple[float, float, float]]()
    found: list[tuple[float, ...]] = []
    for data, at in zip(messages, ns, strict=True):
        for entity in SceneUpdate.FromString(data).entities:
            about = {pair.key: pair.value for pair in entity.metadata}
            track, cube = int(entity.id), entity.cubes[0]
            kind_of.setdefault(track, KIND_NAMES.index(about["kind"]))
            size_of.setdefault(track, (cube.size.x, cube.size.y, cube.size.z))
            p, q = cube.pose.position, cube.pose.orientation
            found.append((track, at / NS, p.x, p.y, q.z, q.w, float(about["speed_mps"])))
    tracks = np.array(sorted(kind_of), np.int64)
    state, valid = np.zeros((len(tracks), len(t), 4), np.float32), np.zeros((len(tracks), len(t)), bool)
    if found:
        table = np.array(found)
        step = _nearest(t, table[:, 1])
        late = t[step] - table[:, 1]
        order = np.argsort(-np.abs(late), kind="stable")  # of two messages for one step the nearer one wins
        order = order[np.abs(late[order]) <= DT / 2 + 1e-6]
        table, step, late = table[order], step[order], late[order]
        late[np.abs(late) < 1e-6] = 0.0
        row = np.searchsorted(tracks, table[:, 0].astype(np.int64))
        yaw, speed = 2 * np.arctan2(table[:, 4], table[:, 5]), table[:, 6]
        x, y = table[:, 2] + speed * np.cos(yaw) * late, table[:, 3] + speed * np.sin(yaw) * late
        state[row, step] = np.column_stack([x, y, yaw, speed])
        valid[row, step] = True
    size = np.array([size_of[o] for o in tracks.tolist()], np.float32).reshape(-1, 3)
    return tracks, np.array([kind_of[o] for o in tracks.tolist()], np.int64), size, state, valid


def signals(messages: list[bytes], ns: list[int], t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """signal_id (G,) and signal_state (G, T) from changes of signals; 0 (off) until a state is known."""
    told = [json.loads(m) for m in messages]
    ids = np.unique([i for said in told for i in said["id"]]).astype(np.int64)
    state = np.zeros((len(ids), len(t)), np.uint8)
    for said, step in zip(told, _steps(t, ns), strict=True):
        state[np.searchsorted(ids, said["id"]), step:] = np.array(said["state"], np.uint8)[:, None]
    return ids, state


def flag(messages: list[bytes], ns: list[int], t: np.ndarray, name: str) -> np.ndarray | None:
    """(T,) bool from changes of a driver flag; false until it is known, None if it never is.

    A true value lasts at least one step, however short it was.
    """
    out, known, least = np.zeros(len(t), bool), False, 0
    for said, step in zip([json.loads(m)[name] for m in messages], _steps(t, ns), strict=True):
        if said is not None:
            out[step if said else max(step, least) :] = said
            known, least = True, step + 1 if said else least
    return out if known else None


def fields(data_of: dict[str, list[bytes]], ns_of: dict[str, list[int]], t: np.ndarray) -> dict[str, Any]:
    """Fields of `log.Drive` with a step axis, from a recording's messages by topic; objects as a tuple."""
    out: dict[str, Any] = {}
    if OBJECTS in data_of:
        out["objects"] = objects(data_of[OBJECTS], ns_of[OBJECTS], t)
    if SIGNALS in data_of:
        out["signal_id"], out["signal_state"] = signals(data_of[SIGNALS], ns_of[SIGNALS], t)
    if DRIVER in data_of:
        out |= {name: flag(data_of[DRIVER], ns_of[DRIVER], t, name) for name in ("engaged", "takeover")}
    return out


def _nearest(t: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Index of the time in t nearest to each of `at`."""
    after = np.searchsorted(t, at)
    before, after = np.maximum(after - 1, 0), np.minimum(after, len(t) - 1)
    return np.where(np.abs(at - t[before]) <= np.abs(t[after] - at), before, after)


def _steps(t: np.ndarray, ns: list[int]) -> list[int]:
    """The first step at or after each time."""
    return np.searchsorted(t, np.array(ns, np.float64) / NS - 1e-6).tolist()
