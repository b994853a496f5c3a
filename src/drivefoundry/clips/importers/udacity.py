"""Udacity challenge-2 folder (labels.csv, center_*/*.jpg) in, Drives and MCAP clips out.

True: frames, their times and the steering-wheel angle. Derived, and noted so: yaw rate (from the pictures), speed
(from yaw rate and steering, +-15 %), hence acceleration; position and heading are dead reckoned from both and drift.
Absent: route, objects, map. Udacity self-driving-car data, challenge 2: https://github.com/udacity/self-driving-car
(MIT).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from drivefoundry.clips.importers.pieces import pieces
from drivefoundry.types import DT, require
from drivefoundry_car.log import Drive, Video, encode_video, write_drive

COLUMNS = ("file", "t_s", "steering_wheel_angle_rad", "vis_yaw_rate_rps", "est_speed_mps", "est_speed_supported")
GAP_S = 0.25
"""Frames further apart than this end one drive and begin the next."""
SHORTEST_S = 5.0
"""Runs shorter than this hold no whole decision and are left out."""
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
    """One stretch of labels without a gap. name; files F paths; t, steering, yaw_rate, speed, supported (F,)."""

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
    """Folder in, its stretches of frames without a gap out. Frames that the folder lacks count as gaps.

    ValueError names the line and column of labels.csv that is no number, or says that no frame is there.
    """
    labels = folder / "labels.csv"
    with labels.open(newline="") as f:
        reader = csv.DictReader(f)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
        require(not missing, f"{labels}: column {', '.join(missing[:1])} is missing; wanted {', '.join(COLUMNS)}")
        rows = list(reader)
    present = {p.name for d in folder.glob("center_*") for p in d.iterdir()}
    files, values = [], []
    for line, row in enumerate(rows, 2):
        if Path(row["file"]).name in present:
            files.append(folder / row["file"])
            values.append([_number(labels, line, c, row[c]) for c in COLUMNS[1:]])
    require(
        len(files) > 1, f"{labels}: none of its {len(rows)} frames is in the folder; copy the center_* folder beside it"
    )
    table = np.array(values)
    require(bool((np.diff(table[:, 0]) > 0).all()), f"{labels}: t_s must rise from line to line; sort the file by time")
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
    require(np.isfinite(value), f"{path}: line {line}, {column}: {text!r} is no number")
    return value


def drive_of(run: Run, *, video: bool = True) -> Drive:
    """Run in, Drive on the 10 Hz grid out, with its frames as H.264 at their own rate; pose starts at 0, 0, 0."""
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
    return Drive(
        meta=meta,
        t=t,
        ego=ego,
        ego_size=SIZE,
        video=_video(run) if video else None,
        notes={**NOTES, "ego.speed.share": supported},
    )


def write_clips(
    folder: Path, out: Path, *, seconds: float = 20.0, on_clip: Callable[[Path], None] | None = None
) -> list[Path]:
    """Folder in, MCAP clips out, each a span of one run; pose goes on from clip to clip of a run."""
    written = []
    for run in runs_of(folder):
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
    return Drive(
        meta=whole.meta, t=whole.t[steps], ego=whole.ego[steps], ego_size=SIZE, video=_video(part), notes=whole.notes
    )


def _columns(run: Run) -> tuple[np.ndarray, ...]:
    return run.t, run.steering, run.yaw_rate, run.speed, run.supported


def _video(run: Run) -> Video:
    frames = np.stack([_picture(path) for path in run.files])
    height, width = frames.shape[1:3]
    focal = FOCAL_640 * width / 640
    fps = max(1, round((len(run.t) - 1) / (run.t[-1] - run.t[0])))
    return encode_video(frames, run.t, (focal, focal, width / 2, HORIZON * height), MOUNT, fps=fps)


def _picture(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a whole picture ({error}); copy it again or delete it") from None
