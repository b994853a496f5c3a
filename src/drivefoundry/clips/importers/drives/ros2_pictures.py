"""Encode ROS 2 picture messages (CDR bytes; sensor_msgs Image and CompressedImage) as H.264 packets."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from drivefoundry_car.log.video import Encoder

PICTURES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
"""Supported schemas, the smaller first."""
PLAIN = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "8UC3": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
"""Encoding -> which of its channels are red, green and blue (sensor_msgs/image_encodings.hpp)."""
YUV = {"yuv422": False, "uyvy": False, "yuv422_yuy2": True, "yuyv": True}
"""Encoding -> whether luma comes first."""
BAYER = {
    "bayer_rggb8": (0, 1, 2, 3),
    "bayer_bggr8": (3, 1, 2, 0),
    "bayer_gbrg8": (2, 0, 3, 1),
    "bayer_grbg8": (1, 0, 3, 2),
}
"""Encoding -> where in each 2x2 block red, both greens and blue lie."""
BYTES = {
    **{name: 4 if name.endswith("a8") else 3 for name in PLAIN},
    **dict.fromkeys(YUV, 2),
    **dict.fromkeys((*BAYER, "mono8", "8UC1"), 1),
}
"""Supported encoding -> bytes per pixel."""


@dataclass(frozen=True)
class Encoded:
    """width, height px; kept: indices of encoded pictures; key (F,) bool; packets F; bad: number of pictures left
    out."""

    width: int
    height: int
    kept: list[int]
    key: np.ndarray
    packets: list[bytes]
    bad: int


def encoded(messages: Iterable[bytes], schema: str, fps: int) -> Encoded | None:
    """Encode pictures in order, one at a time, skipping damaged ones; None if all are damaged."""
    encoder: Encoder | None = None
    height = width = 0
    kept, keys, packets, bad = [], [], [], 0
    for i, message in enumerate(messages):
        frame = _frame(message, schema)
        if frame is None or (encoder is not None and frame.shape[:2] != (height, width)):
            bad += 1
            continue
        if encoder is None:
            height, width = frame.shape[:2]
            encoder = Encoder(width, height, fps)
        key, packet = encoder.encode(frame)
        kept.append(i)
        keys.append(key)
        packets.append(packet)
    if not packets:
        return None
    return Encoded(width, height, kept, np.array(keys, bool), packets, bad)


def _frame(message: bytes, schema: str) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB of even height and width; None if the message is damaged."""
    try:
        frame = _compressed(message) if schema == PICTURES[0] else _raw(message)
    except (struct.error, UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    if frame is None or min(frame.shape[:2]) < 2:
        return None
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])


class _Cdr:
    """A CDR message read front to back: only what pictures need."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4
        self._order = "<" if data[1:2] and data[1] & 1 else ">"

    def number(self) -> int:
        """uint32, aligned to its size from the end of the encapsulation header."""
        self._at += -self._at % 4
        (value,) = struct.unpack_from(f"{self._order}I", self._data, self._at)
        self._at += 4
        return value

    def byte(self) -> int:
        (value,) = struct.unpack_from("B", self._data, self._at)
        self._at += 1
        return value

    def bytes(self) -> bytes:
        """A byte sequence, or a string with its closing zero. struct.error if it is truncated."""
        size = self.number()
        if self._at + size > len(self._data):
            raise struct.error("truncated")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        return self.bytes().rstrip(b"\0").decode("utf-8", "replace")


def _header(cdr: _Cdr) -> None:
    """std_msgs/Header: stamp, frame_id."""
    cdr.number()
    cdr.number()
    cdr.bytes()


def _compressed(message: bytes) -> np.ndarray:
    """sensor_msgs/CompressedImage: header, format, data."""
    cdr = _Cdr(message)
    _header(cdr)
    cdr.bytes()
    return np.asarray(Image.open(io.BytesIO(cdr.bytes())).convert("RGB"))


def _raw(message: bytes) -> np.ndarray | None:
    """sensor_msgs/Image: header, height, width, encoding, is_bigendian, step, data."""
    cdr = _Cdr(message)
    _header(cdr)
    height, width, encoding = cdr.number(), cdr.number(), cdr.text()
    cdr.byte()
    step, data = cdr.number(), cdr.bytes()
    wide = BYTES.get(encoding)
    if wide is None:
        raise ValueError(f"pictures are encoded as '{encoding}'; record them compressed, or as rgb8")
    if step < width * wide or len(data) < step * height or not width:
        return None
    rows = np.frombuffer(data, np.uint8, step * height).reshape(height, step)[:, : width * wide]
    pixels = rows.reshape(height, width, wide)
    if encoding in PLAIN:
        return pixels[..., list(PLAIN[encoding])]
    if encoding in YUV:
        pairs = (pixels if YUV[encoding] else pixels[..., ::-1])[:, : width // 2 * 2]
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(pairs), format="yuyv422").to_ndarray(format="rgb24")
    if encoding not in BAYER:
        return np.repeat(pixels, 3, axis=2)
    grey = pixels[: height // 2 * 2, : width // 2 * 2, 0]
    corners = [grey[a::2, b::2] for a in (0, 1) for b in (0, 1)]  # half the size: each block of the mosaic is a pixel
    red, one, other, blue = (corners[i] for i in BAYER[encoding])
    return np.stack([red, (one.astype(np.uint16) + other) // 2, blue], axis=2).astype(np.uint8)
