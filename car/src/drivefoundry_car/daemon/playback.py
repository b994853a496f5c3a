"""Play a recorded drive to the daemon as its vehicle would: the same messages in order, over the same socket.

    python -m drivefoundry_car.daemon.playback DRIVE.mcap SOCKET

In lockstep: each state waits for the daemon's controls, which are collected but have no effect on the drive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry_car.daemon.bus import END, VEHICLE, Message, Vehicle
from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import FRONT, to_ns
from drivefoundry_car.log.drive import Drive, read_drive
from drivefoundry_car.recording.recent import Moment, moments

WAIT_S = 60.0
"""How long to wait for a daemon to connect or to answer, s."""


def hello(drive: str, meta: dict[str, str]) -> Message:
    """The first message of a connection."""
    return Message(VEHICLE, 0, json.dumps({"drive": drive, "meta": meta}).encode())


class Teller:
    """Converts moments to messages; latched values are sent when they change."""

    def __init__(self) -> None:
        self._sent: dict[str, bytes] = {}

    def messages(self, now: Moment) -> list[Message]:
        """The messages of a moment, except pictures; the state comes last."""
        ns, out = to_ns(now.t), list[Message]()
        held = {"engaged": now.engaged, "takeover": now.takeover}
        changed: dict[str, Any] = {channels.DRIVER: held} if now.engaged is not None or now.takeover is not None else {}
        if now.route is not None:
            changed[channels.ROUTE] = {"points": now.route.tolist()}
        if now.signals is not None:
            changed[channels.SIGNALS] = dict(zip(("id", "state"), (a.tolist() for a in now.signals), strict=True))
        for topic, value in changed.items():
            data = json.dumps(value).encode()
            if self._sent.get(topic) != data:
                self._sent[topic] = data
                out.append(Message(topic, ns, data))
        if (o := now.objects) is not None:
            (data,) = channels.scene_updates(o.track, o.kind, o.size, o.states, o.valid, [ns])
            out.append(Message(channels.OBJECTS, ns, data))
        (data,) = channels.states(np.array([now.t]), now.ego[None])
        return [*out, Message(channels.STATE, ns, data)]


def steps_of(drive: Drive) -> Iterator[list[Message]]:
    """The messages of a drive, one list per state; pictures at their own times, as recorded."""
    videos = {**({} if drive.video is None else {FRONT: drive.video}), **drive.others}
    shown = sorted(((t, name, i) for name, v in videos.items() for i, t in enumerate(v.t.tolist())), reverse=True)
    teller = Teller()
    for now in moments(drive):
        pictures = []
        while shown and shown[-1][0] <= now.t + 1e-6:
            t, name, i = shown.pop()
            (data,) = channels.pictures(name, videos[name].format, [videos[name].packets[i]], [to_ns(t)])
            pictures.append(Message(channels.camera(name), to_ns(t), data))
        yield pictures + teller.messages(now)


def play(drive: Drive, path: Path) -> list[dict[str, Any]]:
    """Play a drive to the daemon that connects; returns its controls, one per state. ValueError if none connects or it
    disconnects."""
    answers = []
    with Vehicle(path) as vehicle:
        if not vehicle.accept(WAIT_S):
            raise ValueError(f"{path}: no daemon connected within {WAIT_S:.0f} s; start it with this socket")
        vehicle.tell(hello(drive.meta.get("drive", ""), drive.meta))
        for messages in steps_of(drive):
            answer = vehicle.controls(messages[-1].ns, WAIT_S) if vehicle.tell(*messages) else None
            if answer is None:
                raise ValueError(f"{path}: the daemon did not answer the state of {messages[-1].t:.1f} s")
            answers.append(answer)
        vehicle.tell(Message(END, messages[-1].ns))
    return answers


def main() -> int:
    """Play one file; print one line per state."""
    parser = argparse.ArgumentParser(prog="python -m drivefoundry_car.daemon.playback")
    parser.add_argument("drive", type=Path)
    parser.add_argument("socket", type=Path)
    args = parser.parse_args()
    try:
        for answer in play(read_drive(args.drive), args.socket):
            print(json.dumps(answer))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
