"""Read Udacity challenge-2 tables (steering angle, torque and speed at 20 Hz, some with GPS) as Drives.

True: times, speed, steering-wheel angle, and the place where the table has GPS. Derived, and noted so: yaw rate (a
steady-state bicycle of the car's own wheelbase and steering ratio), acceleration, and without GPS the pose, which is
dead reckoned and drifts. Absent: pictures, route, objects, takeovers: people drove by hand, so the torque in the tables
is theirs throughout and takes over from nobody. https://github.com/udacity/self-driving-car (MIT).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivefoundry.clips.importers.drives.series import Series, grid, wrapped
from drivefoundry.clips.importers.drives.table import header_of, rows_of
from drivefoundry.clips.importers.drives.udacity import GAP_S, SHORTEST_S, SIZE
from drivefoundry.types import require
from drivefoundry_car.log import Drive

COLUMNS = ("filename", "angle", "torque", "speed")
"""The first column names a picture by its time, ns."""
PLACE = ("lat", "long")
WHEELBASE, RATIO = 2.85, 14.8
"""Lincoln MKZ, m, and wheel angle to road angle, from the data set's vehicle interface."""
UNDERSTEER = 0.0025
"""s^2/m, in yaw rate = speed * tan(angle) / (WHEELBASE + UNDERSTEER * speed^2); fits HMB_1's GPS course."""
SMOOTH_S, COURSE_S = 0.5, 2.0
"""Spans over which speed and GPS position are fitted, s."""
EARTH = 6378137.0
NOTES = {
    "ego.speed": "true (CAN)",
    "ego.acceleration": "slope of the speed over 0.5 s",
    "ego.yaw_rate": "derived from speed and steering (bicycle with understeer)",
    "ego.steering": "true (CAN)",
    "video": "absent",
    "route": "absent",
    "objects": "absent",
    "takeover": "absent: driven by hand throughout",
}
RECKONED = {"ego.pose": "dead reckoned from speed and derived yaw rate: drifts"}
MEASURED = {"ego.pose": "true (GPS, smoothed over 2 s); heading is its course"}


def tables(folder: Path) -> list[Path]:
    """The tables of a folder, one per recording, preferring the one with GPS; or the one given file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]:
        header, first = header_of(path)
        if set(COLUMNS) <= set(header):
            name = dict(zip(header, first, strict=False)).get("filename", path.name)
            if name not in found or set(PLACE) <= set(header):
                found[name] = path
    return sorted(found.values())


def read(path: Path) -> list[Drive]:
    """Read one table as Drives, t in s from its first row. Map frame: east and north of the first row."""
    ns, table = _rows(path)
    t = (ns - ns[0]) / 1e9
    Series.checked(t, table, "filename (its time)", path)
    cuts = np.flatnonzero(np.diff(t) > GAP_S) + 1
    parts = [p for p in np.split(np.arange(len(t)), cuts) if t[p[-1]] - t[p[0]] >= SHORTEST_S]
    require(len(parts) > 0, f"{path}: no stretch of {SHORTEST_S:.0f} s without a gap of {GAP_S} s; nothing to import")
    return [_drive(path.stem.partition("_with")[0], k, t[p], table[p]) for k, p in enumerate(parts)]


def _rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (N,) ns, and angle, speed and, if present, latitude and longitude (N, 2 or 4)."""
    header, rows = rows_of(path)
    require(len(rows) > 1, f"{path}: no rows; copy it again")
    names = ["angle", "speed", *(PLACE if set(PLACE) <= set(header) else ())]
    picture, columns = header.index("filename"), [header.index(n) for n in names]
    ns, table = np.zeros(len(rows), np.int64), np.zeros((len(rows), len(names)))
    for i, (line, row) in enumerate(rows):
        where = f"{path}: line {line}"
        stamp = Path(row[picture]).stem
        require(stamp.isdecimal(), f"{where}, filename: {row[picture]!r} contains no time; expected <ns>.jpg")
        ns[i] = int(stamp)
        for k, column in enumerate(columns):
            try:
                table[i, k] = float(row[column])
            except ValueError:
                table[i, k] = np.nan
            require(bool(np.isfinite(table[i, k])), f"{where}, {names[k]}: {row[column]!r} is not a number")
    return ns, table


def _drive(name: str, part: int, t: np.ndarray, table: np.ndarray) -> Drive:
    angle, speed = table[:, 0], table[:, 1]
    steps = grid(t[0], t[-1])
    rate = speed * np.tan(angle / RATIO) / (WHEELBASE + UNDERSTEER * speed**2)
    v, accel = Series(t, speed).near(steps, SMOOTH_S)
    if table.shape[1] == 4:
        lat, lon = np.radians(table[:, 2]), np.radians(table[:, 3])
        x, dx = Series(t, EARTH * np.cos(lat[0]) * (lon - lon[0])).near(steps, COURSE_S)
        y, dy = Series(t, EARTH * (lat - lat[0])).near(steps, COURSE_S)
        yaw, how = np.arctan2(dy, dx), MEASURED
    else:
        between = np.diff(t, prepend=t[0])
        heading = np.cumsum(rate * between)
        # Trapezoids: the mean of two neighbouring samples acts between them.
        middle, mean = heading - rate * between / 2, (speed + np.concatenate([speed[:1], speed[:-1]])) / 2
        way = np.cumsum(mean * between * np.cos(middle)), np.cumsum(mean * between * np.sin(middle))
        x, y, yaw = (Series(t, c).at(steps) for c in (*way, heading))
        how = RECKONED
    ego = np.column_stack(
        [x, y, wrapped(yaw), np.maximum(v, 0), accel, Series(t, rate).at(steps), Series(t, angle).at(steps)]
    )
    meta = {"vehicle": "udacity-mkz", "drive": f"{name}-{part}", "source": "udacity", "place": name, "route_id": name}
    return Drive(meta, steps, ego, SIZE, notes=NOTES | how)
