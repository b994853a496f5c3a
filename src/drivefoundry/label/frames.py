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
TOLERANCE_S = 0.06
"""A frame stands for a moment when it was taken within this time of it."""


def nearest(video: Video, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (N,) s in; index (N,) of the frame nearest each, and (N,) bool whether it is near enough."""
    if not len(video.t):
        return np.zeros(len(t), int), np.zeros(len(t), bool)
    right = np.clip(np.searchsorted(video.t, t), 1, max(1, len(video.t) - 1))
    left = right - 1
    right = np.minimum(right, len(video.t) - 1)
    index = np.where(np.abs(video.t[left] - t) <= np.abs(video.t[right] - t), left, right)
    return index, np.abs(video.t[index] - t) <= TOLERANCE_S


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
