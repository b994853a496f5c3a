"""Encode a Drive for a table row, as JSON text and a block of arrays, and decode it. Video is stored beside, as MP4."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard

from drivefoundry_car import log
from drivefoundry_car.arrays import from_bytes, to_bytes
from drivefoundry_car.log import Drive, Objects, Plans, Video

_PLAIN = ("t", "ego", "route", "signal_id", "signal_state", "engaged", "takeover")
_OBJECTS = ("track", "kind", "size", "states", "valid")
_PLANS = ("plan", "correction")


def pack(drive: Drive, others: Mapping[str, str] | None = None) -> tuple[str, bytes]:
    """Encode a drive's texts as JSON and its arrays as zstd-compressed npz, deterministically.

    others: where the MP4 of each of `drive.others` is stored.
    """
    texts: dict[str, Any] = {"meta": drive.meta, "notes": drive.notes, "ego_size": drive.ego_size}
    arrays = {name: getattr(drive, name) for name in _PLAIN if getattr(drive, name) is not None}
    if drive.objects is not None:
        arrays |= {f"objects.{name}": getattr(drive.objects, name) for name in _OBJECTS}
    for name in _PLANS:
        plans: Plans | None = getattr(drive, name)
        if plans is not None:
            arrays |= {f"{name}.t": plans.t, f"{name}.points": plans.points}
            texts[name] = plans.text
    if drive.video is not None:
        arrays |= {"video.t": drive.video.t, "video.key": drive.video.key}
        texts["camera"] = _camera(drive.video)
    for name, kept in sorted((others or {}).items()):
        v = drive.others[name]
        arrays |= {f"others.{name}.t": v.t, f"others.{name}.key": v.key}
        texts.setdefault("others", {})[name] = {**_camera(v), "video": kept}
    return json.dumps(texts), zstandard.ZstdCompressor(level=3).compress(to_bytes(arrays))


def _camera(v: Video) -> dict[str, Any]:
    told = {"size": [v.width, v.height], "intrinsics": v.intrinsics, "mount": v.mount}
    return told | ({"yaw": v.yaw} if v.yaw else {})


def others_of(texts: str) -> dict[str, str]:
    """Return camera name -> where its MP4 is stored, for all cameras but the front one."""
    return {name: camera["video"] for name, camera in json.loads(texts).get("others", {}).items()}


def unpack(texts: str, block: bytes, mp4: bytes | None, others: Mapping[str, bytes] | None = None) -> Drive:
    """Invert `pack`. Without mp4, drive.video is None; drive.others has the cameras whose MP4 is given."""
    said = json.loads(texts)
    arrays = from_bytes(zstandard.decompress(block), "clip")
    fields: dict[str, Any] = {name: arrays[name] for name in _PLAIN if name in arrays}
    if "objects.track" in arrays:
        fields["objects"] = Objects(*(arrays[f"objects.{name}"] for name in _OBJECTS))
    for name in _PLANS:
        if name in said:
            fields[name] = Plans(arrays[f"{name}.t"], arrays[f"{name}.points"], said[name])
    if mp4 is not None:
        fields["video"] = _video(mp4, said["camera"], arrays["video.t"], arrays["video.key"])
    fields["others"] = {
        name: _video(data, said["others"][name], arrays[f"others.{name}.t"], arrays[f"others.{name}.key"])
        for name, data in (others or {}).items()
    }
    size = said["ego_size"]
    return Drive(meta=said["meta"], ego_size=(size[0], size[1], size[2]), notes=said["notes"], **fields)


def _video(mp4: bytes, camera: dict[str, Any], t: np.ndarray, key: np.ndarray) -> Video:
    _, _, packets, _, _ = log.from_mp4(mp4)
    (width, height), intrinsics, mount = camera["size"], tuple(camera["intrinsics"]), tuple(camera["mount"])
    yaw = camera.get("yaw", 0.0)
    return Video(width, height, intrinsics, mount, yaw, t=t, key=key, packets=packets)
