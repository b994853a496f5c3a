"""Model-sized frames from video.

A picture whose aspect differs from the model's is cropped first: full width (or full height, if it is wider), with rows
chosen so that the optical horizon cy ends up where the embedded rig has it, 28/64 from the top. Cropping keeps what the
model needs, the road from the bonnet to the horizon, and keeps pixels square.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from drivefoundry_car.log import Video, decode_video

HORIZON = 28 / 64
"""Height of the horizon in the model's picture, as a share from the top (the embedded rig: cy = 28 of 64 rows)."""
OLDEST_S = 0.1
"""Maximum age of the last frame before a decision, s: one period of a 10 Hz camera."""
EDGE_S = 1e-3
"""Tolerance for rounding and for differences between the clocks of camera and car, s."""


def latest(video: Video, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the frame available at each time: the last one taken by then, never a future one.

    Returns, for times t (N,) s, its index (N,) and whether there is one no older than OLDEST_S, (N,) bool.
    """
    if not len(video.t):
        return np.zeros(len(t), int), np.zeros(len(t), bool)
    last = np.searchsorted(video.t, t + EDGE_S, side="right") - 1
    index = np.maximum(last, 0)
    return index, (last >= 0) & (t - video.t[index] <= OLDEST_S + EDGE_S)


def crop_box(width: int, height: int, cx: float, cy: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Crop (left, upper, right, lower) px of a picture with the given size and optical centre px, for a model picture
    of size (H, W)."""
    h, w = size
    aspect = w / h
    crop_w, crop_h = (width, width / aspect) if width / height <= aspect else (height * aspect, height)
    left = float(np.clip(cx - crop_w / 2, 0, width - crop_w))
    upper = float(np.clip(cy - HORIZON * crop_h, 0, height - crop_h))
    return left, upper, left + crop_w, upper + crop_h


def frames_at(video: Video, indices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Decode frames (F,) as (F, H, W, 3) uint8 RGB, cropped and area-resized if the camera differs from `size`."""
    h, w = size
    if not len(indices):
        return np.zeros((0, h, w, 3), np.uint8)
    frames = decode_video(video, indices)
    if frames.shape[1:3] == (h, w):
        return frames
    box = crop_box(video.width, video.height, video.intrinsics[2], video.intrinsics[3], size)
    small = [Image.fromarray(f).resize((w, h), Image.Resampling.BOX, box=box) for f in frames]
    return np.stack([np.asarray(f) for f in small])
