"""Quality gates on length, clock, motion and pictures, each giving a reason to drop a drive."""

from __future__ import annotations

import numpy as np

from drivefoundry.types import DT
from drivefoundry_car.log import Drive, Video, clock, decode_video

MIN_SECONDS = 6.0
"""Shorter clips contain too few complete decisions (half a second of past and 4 s of future each), s."""
MAX_STEP_SPEED = 70.0
"""A pose that moves faster than this between two steps has jumped, m/s."""
MAX_ACCEL = 12.0
"""Beyond tyre grip, m/s^2, over half a second."""
MAX_YAW_STEP = 0.35
"""Heading change between two steps that no car makes, rad (3.5 rad/s)."""
MISMATCH_M, MISMATCH = 2.0, 0.4
"""Distance in a second may differ from the speed's integral by this many metres plus this share."""
MAX_FRAME_GAP = 0.6
"""Longest gap between frames, s: a decision would lack its picture."""
BLACK_LEVEL, FLAT_LEVEL = 8.0, 1.5
"""Mean and contrast (0-255) below which a picture is empty."""
FROZEN_LEVEL, FROZEN_SPEED = 0.35, 2.0
"""Mean change (0-255) between two pictures a second apart below which they are frozen, at this speed or more, m/s."""
THUMB = (16, 40)
"""Rows and columns of a thumbnail."""


def motion_fault(drive: Drive, *, min_seconds: float = MIN_SECONDS) -> str | None:
    """Say what is wrong with a drive's clock or motion, None if nothing."""
    seconds = (len(drive.t) - 1) * DT
    if seconds < min_seconds:
        return f"too short: {seconds:.1f} s, at least {min_seconds:.0f} s are needed"
    if not np.isfinite(drive.ego[:, :6]).all():
        return "ego state is not finite"
    if not clock.spans(drive.t, np.array([0]), 0, len(drive.t) - 1)[0]:
        gaps = np.diff(drive.t)
        return f"clock: a step of {gaps[np.abs(gaps - DT).argmax()]:.3g} s, must be {DT} s"
    step = np.hypot(*np.diff(drive.ego[:, :2], axis=0).T)
    if step.max() > MAX_STEP_SPEED * DT:
        return f"pose jumps {step.max():.1f} m in one step at {drive.t[step.argmax()]:.1f} s"
    turn = np.diff(drive.ego[:, 2])
    turn = np.abs(np.arctan2(np.sin(turn), np.cos(turn)))
    if turn.max() > MAX_YAW_STEP:
        return f"heading jumps {turn.max():.2f} rad in one step at {drive.t[turn.argmax()]:.1f} s"
    return _speed_fault(drive.t, drive.ego[:, 3], step)


def _speed_fault(t: np.ndarray, speed: np.ndarray, step: np.ndarray) -> str | None:
    """Check speed against itself half a second later, and against the distance covered in each second."""
    half, second = round(0.5 / DT), round(1.0 / DT)
    accel = np.abs(speed[half:] - speed[:-half]) / 0.5
    if accel.max() > MAX_ACCEL:
        return f"speed changes by {accel.max():.0f} m/s^2 at {t[accel.argmax()]:.1f} s"
    made = np.convolve(step, np.ones(second), "valid")
    integral = np.convolve(np.abs(speed[:-1] + speed[1:]) / 2 * DT, np.ones(second), "valid")
    off = np.abs(made - integral) - MISMATCH_M - MISMATCH * np.maximum(made, integral)
    if off.max() > 0:
        i = int(off.argmax())
        return f"speed says {integral[i]:.1f} m in the second from {t[i]:.1f} s, the pose {made[i]:.1f} m"
    return None


def video_fault(drive: Drive) -> str | None:
    """Say what is wrong with a drive's video stream (without decoding pictures), None if nothing."""
    v = drive.video
    if v is None or not len(v.packets):
        return "video is missing"
    if not v.key.any() or not v.key[0]:
        return "video does not begin with a key frame"
    edges = np.concatenate([[min(drive.t[0], v.t[0])], v.t, [max(drive.t[-1], v.t[-1])]])
    gap = np.diff(edges)
    if gap.max() > MAX_FRAME_GAP:
        return f"video has no frame for {gap.max():.1f} s from {edges[gap.argmax()]:.1f} s"
    return None


def thumbnails(video: Video) -> tuple[np.ndarray, np.ndarray]:
    """Decode a video's key frames as grey thumbnails (K, 16, 40) float32 0-255; also return their times (K,)."""
    key = np.flatnonzero(video.key)
    grey = decode_video(video, key).astype(np.float32).mean(-1)
    return resize(grey, THUMB), video.t[key]


def resize(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize pictures (K, H, W) to (K, h, w) by block means."""
    rows = np.linspace(0, grey.shape[1], size[0] + 1).astype(int)
    columns = np.linspace(0, grey.shape[2], size[1] + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=1), columns[:-1], axis=2)
    return sums / np.outer(np.diff(rows), np.diff(columns))


def picture_fault(drive: Drive, thumbs: np.ndarray, at: np.ndarray) -> str | None:
    """Report black, empty or frozen pictures among a drive's thumbnails (K, h, w) taken at (K,), None if there are
    none."""
    dark = (thumbs.mean((1, 2)) < BLACK_LEVEL) & (thumbs.std((1, 2)) < BLACK_LEVEL)
    if dark.mean() > 0.25:
        return f"{dark.sum()} of {len(dark)} pictures are black"
    flat = thumbs.std((1, 2)) < FLAT_LEVEL
    if flat.mean() > 0.25:
        return f"{flat.sum()} of {len(flat)} pictures show nothing"
    same = np.abs(np.diff(thumbs, axis=0)).mean((1, 2)) < FROZEN_LEVEL
    speed = np.interp(at, drive.t, drive.ego[:, 3])
    frozen = same & (np.minimum(speed[1:], speed[:-1]) > FROZEN_SPEED)
    if frozen.sum() > 1:
        return f"{frozen.sum()} pictures are frozen while the car moves, the first at {at[1:][frozen][0]:.1f} s"
    return None
