"""A Drive in, what a row keeps of it out: a JSON text and a block of arrays; and back. Video goes beside, as MP4."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import zstandard

from drivefoundry_car import log
from drivefoundry_car.log import Drive, Objects, Plans, Video

_PLAIN = ("t", "ego", "route", "signal_id", "signal_state", "engaged", "takeover")
_OBJECTS = ("track", "kind", "size", "states", "valid")
_PLANS = ("plan", "correction")


def pack(drive: Drive) -> tuple[str, bytes]:
    """A drive in; its texts as JSON and its arrays as zstd-compressed npz out, the same for the same drive."""
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
        v = drive.video
        arrays |= {"video.t": v.t, "video.key": v.key}
        texts["camera"] = {"size": [v.width, v.height], "intrinsics": v.intrinsics, "mount": v.mount}
    block = io.BytesIO()
    np.savez(block, **arrays)
    return json.dumps(texts), zstandard.ZstdCompressor(level=3).compress(block.getbuffer())


def unpack(texts: str, block: bytes, mp4: bytes | None) -> Drive:
    """The reverse of `pack`; without mp4, drive.video is None."""
    said = json.loads(texts)
    with np.load(io.BytesIO(zstandard.decompress(block)), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    fields: dict[str, Any] = {name: arrays[name] for name in _PLAIN if name in arrays}
    if "objects.track" in arrays:
        fields["objects"] = Objects(*(arrays[f"objects.{name}"] for name in _OBJECTS))
    for name in _PLANS:
        if name in said:
            fields[name] = Plans(arrays[f"{name}.t"], arrays[f"{name}.points"], said[name])
    if mp4 is not None:
        _, _, packets, _, _ = log.from_mp4(mp4)
        camera = said["camera"]
        (width, height), intrinsics, mount = camera["size"], tuple(camera["intrinsics"]), tuple(camera["mount"])
        fields["video"] = Video(arrays["video.t"], arrays["video.key"], packets, width, height, intrinsics, mount)
    size = said["ego_size"]
    return Drive(meta=said["meta"], ego_size=(size[0], size[1], size[2]), notes=said["notes"], **fields)
