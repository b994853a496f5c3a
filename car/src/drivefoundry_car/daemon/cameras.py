"""The daemon's cameras: decoded messages, the pictures of the last second, and packets for the recorder."""

from __future__ import annotations

from collections import deque

import numpy as np
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.message import DecodeError

from drivefoundry_car.driving.clocks import FrameClock
from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import NS, Camera
from drivefoundry_car.log.video import Decoder, Encoder, is_key
from drivefoundry_car.vehicle.embodiment import PLAN_DT

HELD_S = 2 * PLAN_DT + 0.2
"""How long pictures are kept, s."""
RGB = "rgb"
"""Raw pictures, which are encoded in the car."""


class Eye:
    """One camera of the car. camera: as recorded; form: 'rgb', 'h264' or 'jpeg', the format of its messages; rate_hz:
    frames per second."""

    def __init__(self, camera: Camera, form: str, rate_hz: float) -> None:
        self.camera, self.form = camera, form
        self.clock = FrameClock(1.0 / rate_hz)
        self.damaged = 0
        """Messages without a valid picture of this camera."""
        self._frames: deque[tuple[int, np.ndarray]] = deque()
        self._encoder = Encoder(camera.width, camera.height, max(1, round(rate_hz))) if form == RGB else None
        self._decoder = Decoder(form) if form != RGB else None

    def take(self, ns: int, data: bytes, now_ns: int) -> tuple[bool, bytes] | None:
        """Take a message of time ns. Returns, for the recorder, whether its packet is a key frame, and the packet; None
        if it is not recorded."""
        in_order = self.clock.last_ns is None or ns > self.clock.last_ns
        fresh = self.clock.admit(ns, now_ns)
        if not in_order or self.clock.last_ns != ns:
            return None
        try:
            frame, packet = self._opened(data)
        except (ValueError, DecodeError):
            self.damaged += 1
            return None
        if fresh and frame is not None:
            self._frames.append((ns, frame))
            while self._frames[0][0] < ns - HELD_S * NS:
                self._frames.popleft()
        return packet

    @property
    def newest_ns(self) -> int | None:
        """Time of the newest picture that may be used for planning."""
        return self._frames[-1][0] if self._frames else None

    def pictures(self, times_ns: list[int]) -> np.ndarray | None:
        """The pictures nearest to the given times, (F, H, W, 3) uint8; None if one is more than a period off."""
        found = []
        for t in times_ns:
            ns, frame = min(self._frames, key=lambda f: abs(f[0] - t), default=(None, None))
            if ns is None or abs(ns - t) > self.clock.period_s * NS * 1.05:
                return None
            found.append(frame)
        return np.stack(found)

    def _opened(self, data: bytes) -> tuple[np.ndarray | None, tuple[bool, bytes]]:
        """A message's picture, None if it cannot be decoded yet, and its packet. ValueError if it is not a picture."""
        shape = (self.camera.height, self.camera.width, 3)
        if self._encoder is not None:
            image = RawImage.FromString(data)
            if (
                (image.height, image.width) != shape[:2]
                or image.encoding != "rgb8"
                or len(image.data) != np.prod(shape)
            ):
                raise ValueError("not a picture of this camera's size")
            frame = np.frombuffer(image.data, np.uint8).reshape(shape)
            return frame, self._encoder.encode(frame)
        assert self._decoder is not None
        packet = channels.FORMATS[self.form].FromString(data).data
        frame = self._decoder.decode(packet)
        if frame is not None and frame.shape != shape:
            raise ValueError("not a picture of this camera's size")
        return frame, (self.form == "jpeg" or is_key(packet), packet)


def raw_picture(name: str, frame: np.ndarray, ns: int) -> bytes:
    """A RawImage message of a frame (H, W, 3) uint8 RGB."""
    height, width = frame.shape[:2]
    message = RawImage(
        frame_id=f"camera_{name}", width=width, height=height, encoding="rgb8", step=3 * width, data=frame.tobytes()
    )
    message.timestamp.seconds, message.timestamp.nanos = divmod(ns, NS)
    return message.SerializeToString()
