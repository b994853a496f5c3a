"""Video in, model-sized frames out.

A camera whose picture has another shape than the model's is cropped first: full width (or full height, if it is
wider), and the rows so that the optical horizon cy comes to lie where the embedded rig has it, 28/64 from the top.
Cropping keeps what the model needs, the road from the bonnet to the horizon, and keeps pixels square.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from drivefoundry_car.log import Video, decode_video

HORIZON = 28 / 64
"""Height of the horizon in the model's picture, share from the top (the embedded rig: cy = 28 of 64 rows)."""
OLDEST_S = 0.1
"""A decision sees the last frame taken before it, if it is at most this old, s: one period of a 10 Hz camera."""
EDGE_S = 1e-3
"""What clocks of camera and car may differ by, and rounding, s."""


def latest(video: Video, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the frame that a car has at each time: the last one taken by then, never one of the future.

    t (N,) s in; index (N,) and (N,) bool, whether there is one and it is no older than OLDEST_S, out.
    """
    if not len(video.t):
        return np.zeros(len(t), int), np.zeros(len(t), bool)
    last = np.searchsorted(video.t, t + EDGE_S, side="right") - 1
    index = np.maximum(last, 0)
    return index, (last >= 0) & (t - video.t[index] <= OLDEST_S + EDGE_S)


def crop_box(width: int, height: int, cx: float, cy: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Source size and optical centre px, model size (H, W) in; (left, upper, right, lower) px of the crop out."""
    h, w = size
    aspect = w / h
    crop_w, crop_h = (width, width / aspect) if width / height <= aspect else (height * aspect, height)
    left = float(np.clip(cx - crop_w / 2, 0, width - crop_w))
    upper = float(np.clip(cy - HORIZON * crop_h, 0, height - crop_h))
    return left, upper, left + crop_w, upper + crop_h


def frames_at(video: Video, indices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frame numbers (F,) in, (F, H, W, 3) uint8 RGB out, cropped and area-resized where the camera differs from
    `size`."""
    h, w = size
    if not len(indices):
        return np.zeros((0, h, w, 3), np.uint8)
    frames = decode_video(video, indices)
    if frames.shape[1:3] == (h, w):
        return frames
    box = crop_box(video.width, video.height, video.intrinsics[2], video.intrinsics[3], size)
    small = [Image.fromarray(f).resize((w, h), Image.Resampling.BOX, box=box) for f in frames]
    return np.stack([np.asarray(f) for f in small])
