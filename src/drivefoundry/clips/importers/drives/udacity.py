"""Read a Udacity challenge-2 folder (labels.csv, center_*/*.jpg) as Drives and MCAP clips.

True: frames, their times and the steering-wheel angle. Derived, and noted so: yaw rate (from the pictures), speed
(from yaw rate and steering, +-15 %), hence acceleration; position and heading are dead reckoned from both and drift.
Absent: route, objects, map. Udacity self-driving-car data, challenge 2: https://github.com/udacity/self-driving-car
(MIT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from drivefoundry.clips.importers.drives.pieces import pieces
from drivefoundry.clips.importers.drives.table import rows_of
from drivefoundry.types import DT, require
from drivefoundry_car.log import Drive, Video, encode_video, write_drive

COLUMNS = ("file", "t_s", "steering_wheel_angle_rad", "vis_yaw_rate_rps", "est_speed_mps", "est_speed_supported")
GAP_S = 0.25
"""Longest gap between frames within one drive, s."""
SHORTEST_S = 5.0
"""Shorter runs contain no complete decision and are left out, s."""
FOCAL_640 = 2152.0
"""Focal length for pictures 640 px wide, px, of the data set's published camera calibration."""
HORIZON = 140 / 240
"""Height of the horizon in the picture, share from the top."""
MOUNT = (1.0, 0.0, 1.4, 0.0)
"""Where the camera sits, m: behind the windscreen; not published, of a Lincoln MKZ by its size."""
SIZE = (4.93, 1.86, 1.48)
"""Lincoln MKZ: length, width, height, m."""
NOTES = {
    "ego.speed": "derived from yaw rate and steering, +-15 %, interpolated where the car went straight",
    "ego.acceleration": "derivative of the derived speed",
    "ego.yaw_rate": "derived from the pictures (optical flow)",
    "ego.pose": "dead reckoned from derived speed and yaw rate: drifts",
    "ego.steering": "true (CAN)",
    "video.mount": "not published: assumed",
    "route": "absent",
    "objects": "absent",
}


@dataclass(frozen=True)
class Run:
    """A gapless stretch of labels. name; files F paths; t, steering, yaw_rate, speed, supported (F,)."""

    name: str
    files: list[Path]
    t: np.ndarray
    steering: np.ndarray
    yaw_rate: np.ndarray
    speed: np.ndarray
    supported: np.ndarray


def fits(folder: Path) -> bool:
    """True for a folder with labels.csv beside center_* frames."""
    return (folder / "labels.csv").is_file() and any(p.is_dir() for p in folder.glob("center_*"))


def runs_of(folder: Path) -> list[Run]:
    """Split a folder into gapless stretches of frames. Missing frames count as gaps.

    ValueError names the line and column of labels.csv that is not a number, or says that no frame exists.
    """
    labels = folder / "labels.csv"
    header, rows = rows_of(labels)
    missing = [c for c in COLUMNS if c not in header]
    require(not missing, f"{labels}: column {', '.join(missing[:1])} is missing; expected {', '.join(COLUMNS)}")
    at = [header.index(c) for c in COLUMNS]
    present = {p.name for d in folder.glob("center_*") for p in d.iterdir()}
    files, values = [], []
    for line, row in rows:
        if Path(row[at[0]]).name in present:
            files.append(folder / row[at[0]])
            values.append([_number(labels, line, c, row[k]) for c, k in zip(COLUMNS[1:], at[1:], strict=True)])
            back = len(values) > 1 and values[-1][0] <= values[-2][0]
            require(not back, f"{labels}: line {line}, t_s: it must rise from line to line; sort the file by time")
    require(
        len(files) > 1, f"{labels}: none of its {len(rows)} frames is in the folder; copy the center_* folder beside it"
    )
    table = np.array(values)
    cuts = np.flatnonzero(np.diff(table[:, 0]) > GAP_S) + 1
    runs = []
    for k, part in enumerate(np.split(np.arange(len(files)), cuts)):
        t = table[part, 0]
        if t[-1] - t[0] >= SHORTEST_S:
            runs.append(Run(f"{folder.name}-{k}", [files[i] for i in part], *table[part].T))
    require(len(runs) > 0, f"{labels}: no stretch of {SHORTEST_S:.0f} s without a gap of {GAP_S} s; nothing to import")
    return runs


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    require(np.isfinite(value), f"{path}: line {line}, {column}: {text!r} is not a number")
    return value


def drive_of(run: Run, *, video: bool = True) -> Drive:
    """Convert a run to a Drive on the 10 Hz grid, with frames as H.264 at their own rate; pose starts at 0, 0, 0."""
    t = run.t[0] + DT * np.arange(int((run.t[-1] - run.t[0]) / DT + 1e-6) + 1)
    fine = np.diff(run.t, prepend=run.t[0])
    # Trapezoids at camera rate: the mean of two neighbouring samples acts between them.
    rate = (run.yaw_rate + np.concatenate([run.yaw_rate[:1], run.yaw_rate[:-1]])) / 2
    speed = (run.speed + np.concatenate([run.speed[:1], run.speed[:-1]])) / 2
    yaw = np.cumsum(rate * fine)
    heading = yaw - rate * fine / 2
    x, y = np.cumsum(speed * fine * np.cos(heading)), np.cumsum(speed * fine * np.sin(heading))
    columns = [
        np.interp(t, run.t, c)
        for c in (x, y, yaw, run.speed, np.gradient(run.speed, run.t), run.yaw_rate, run.steering)
    ]
    ego = np.stack(columns, 1)
    ego[:, 2] = np.arctan2(np.sin(ego[:, 2]), np.cos(ego[:, 2]))
    place = run.name.rsplit("-", 1)[0]
    meta = {"vehicle": "udacity-mkz", "drive": run.name, "source": "udacity", "place": place, "route_id": place}
    supported = f"{100 * run.supported.mean():.0f} % of frames steer enough to support the derived speed"
    pictures, lacks = _video(run) if video else (None, {})
    notes = {**NOTES, "ego.speed.share": supported, **lacks}
    return Drive(meta=meta, t=t, ego=ego, ego_size=SIZE, video=pictures, notes=notes)


def write_clips(
    run: Run, out: Path, *, seconds: float = 20.0, on_clip: Callable[[Path], None] | None = None
) -> list[Path]:
    """Write a run as MCAP clips; the pose is continuous across clips."""
    written = []
    whole = drive_of(run, video=False)
    for k, (t0, t1) in enumerate(pieces(run.t[0], run.t[-1], seconds)):
        path = out / f"{run.name}-{k:03d}.mcap"
        write_drive(path, _span(run, whole, t0, t1))
        written.append(path)
        if on_clip:
            on_clip(path)
    return written


def _span(run: Run, whole: Drive, t0: float, t1: float) -> Drive:
    steps = (whole.t >= t0 - 1e-6) & (whole.t < t1 - 1e-6)
    shown = np.flatnonzero((run.t >= t0 - 1e-6) & (run.t < t1 - 1e-6))
    part = Run(run.name, [run.files[i] for i in shown], *(c[shown] for c in _columns(run)))
    video, lacks = _video(part)
    notes = {**whole.notes, **lacks}
    return Drive(meta=whole.meta, t=whole.t[steps], ego=whole.ego[steps], ego_size=SIZE, video=video, notes=notes)


def _columns(run: Run) -> tuple[np.ndarray, ...]:
    return run.t, run.steering, run.yaw_rate, run.speed, run.supported


def _video(run: Run) -> tuple[Video | None, dict[str, str]]:
    """The run's pictures, and a note on those left out: damaged, or of another size than the first."""
    frames, kept, bad = [], [], []
    for i, path in enumerate(run.files):
        frame = _picture(path)
        if frame is None or (frames and frame.shape != frames[0].shape):
            bad.append(path.name)
        else:
            frames.append(frame)
            kept.append(i)
    video, lacks = None, {}
    if frames:
        height, width = frames[0].shape[:2]
        focal = FOCAL_640 * width / 640
        fps = max(1, round((len(run.t) - 1) / (run.t[-1] - run.t[0])))
        lens = (focal, focal, width / 2, HORIZON * height)
        video = encode_video(np.stack(frames), run.t[kept], lens, MOUNT, fps=fps)
    if bad:
        names = ", ".join(bad[:3]) + (" ..." if len(bad) > 3 else "")
        what = f"{len(bad)} of {len(run.files)} pictures are damaged or of another size and left out: {names}"
        lacks = {f"video of {run.name} from {run.t[0]:.0f} s": what}
    return video, lacks


def _picture(path: Path) -> np.ndarray | None:
    """A picture's pixels; None if it is damaged."""
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (UnidentifiedImageError, OSError):
        return None
