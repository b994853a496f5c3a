"""Read comma2k19 segments (global_pose and processed_log, one minute each) as Drives.

True: pose (GNSS and camera, of the set), wheel speed, steering-wheel angle, gyroscope, the radar's distances and rates,
and on a Toyota whether openpilot steers. Derived, and noted so: acceleration, the car's heading, who a radar target is,
takeovers. Absent: pictures (their files are not read), route, map. Schafer, Santana, Haden, Biasini: A Commute in Data,
2018, arXiv:1812.05752; https://github.com/commaai/comma2k19 (MIT). CAN messages: https://github.com/commaai/opendbc.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from drivefoundry.clips.importers.drives.series import Series, between, grid, wrapped
from drivefoundry.types import AGENT_CAR, DT, require
from drivefoundry_car.log import Drive, Objects
from drivefoundry_car.log.clock import GAP_S

DEEP = 5
"""Folder levels searched for segments: data set, chunk, route, segment."""
ROUTE = re.compile(r"(.+?)(?:\||%7C|_|:|--|-)(\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d)", re.IGNORECASE)
"""A route's name, dongle|time. Many file systems and archivers refuse the bar, so copies use other characters."""
SPEED, WHEEL, GYRO, RADAR = "CAN/speed", "CAN/steering_angle", "IMU/gyro", "CAN/radar"
POSE = ("frame_times", "frame_positions", "frame_orientations", "frame_velocities")
SIZES = {"b0c9d2329ad1606b": (4.6, 1.84, 1.68), "99c94dc769b5d96e": (4.63, 1.8, 1.43)}
"""The set's two cars, a RAV4 and a Civic: length, width, height, m."""
CAR = (4.6, 1.9, 1.6)
"""Assumed size of moving radar targets, m."""
SMOOTH_S, RATE_S = 0.5, 0.2
"""Spans over which speed's slope and the gyroscope are fitted, s."""
MOVING, LASTS_S, LOST_S = 2.0, 1.0, 0.2
"""A radar target faster than this over the ground, m/s, for this long, s, is a vehicle; unseen this long, s, a new
one."""
TWIN_M = (4.0, 1.0)
"""Two targets this close, ahead and to the side, m, are one vehicle."""
EPS_TORQUE, LKA, SENT = 0x260, 0x2E4, 128
"""Toyota's STEER_TORQUE_SENSOR, and STEERING_LKA where openpilot sends it (bus 0 + 128)."""
OVERRIDE = 100
"""openpilot's own threshold for a Toyota driver's hand on the wheel, raw units of the torque sensor."""
WGS84 = (6378137.0, 6.69437999014e-3)
"""Semi-major axis m, squared eccentricity."""
NOTES = {
    "ego.pose": "true (GNSS and camera); the device's place, taken for the box centre: within 2 m",
    "ego.yaw": "the device's, less its median angle to the course",
    "ego.speed": "true (CAN)",
    "ego.acceleration": "slope of the speed over 0.5 s",
    "ego.yaw_rate": "true (gyroscope)",
    "ego.steering": "true (CAN)",
    "video": "absent: not read",
    "route": "absent",
    "objects": "radar targets that move over the ground for 1 s, taken for cars that head as the ego does; "
    "what stands still is left out",
}


def segments(folder: Path) -> list[Path]:
    """The segments in a folder, or the folder itself if it is one."""
    found = [p.parent for level in range(DEEP) for p in folder.glob("*/" * level + "processed_log")]
    return sorted((p for p in found if (p / "global_pose").is_dir()), key=lambda p: (p.parent.name, p.name.zfill(4)))


def read(segment: Path) -> Drive:
    """Read one segment as a Drive on the 10 Hz grid; map frame: east and north of its first position.

    t is the device's own clock, which continues from segment to segment of a route.
    """
    times, positions, quaternions, velocities = (_load(segment / "global_pose" / name) for name in POSE)
    for name, values, width in zip(POSE[1:], (positions, quaternions, velocities), (3, 4, 3), strict=True):
        Series.checked(times, values, name, segment)
        _require_columns(values, width, segment / "global_pose" / name)
        require(bool(np.isfinite(values).all()), f"{segment / 'global_pose' / name}: not finite; copy it again")
    speed, wheel, gyro = (_series(segment, name, width) for name, width in ((SPEED, 1), (WHEEL, 1), (GYRO, 3)))
    starts, ends = zip(*((s.t[0], s.t[-1]) for s in (speed, wheel, gyro)), strict=True)
    t = grid(max(times[0], *starts), min(times[-1], *ends))
    require(len(t) > 1, f"{segment}: its sensors have no time in common; copy it again")
    known = np.logical_and.reduce([between(at, t) for at in (times, speed.t, wheel.t, gyro.t)])
    require(int(known.sum()) > 1, f"{segment}: its sensors have gaps of over {GAP_S} s throughout; copy it again")
    lost, t = int((~known).sum()), t[known]

    to_map = _axes(positions[0])
    x, y, _ = ((positions - positions[0]) @ to_map.T).T
    yaw = _heading(_forward(quaternions) @ to_map.T, velocities @ to_map.T)
    v, accel = Series(speed.t, speed.v[:, 0]).near(t, SMOOTH_S)
    rate, _ = Series(gyro.t, -gyro.v[:, 2]).near(t, RATE_S)  # the device's z axis points down
    columns = [np.interp(t, times, x), np.interp(t, times, y), wrapped(np.interp(t, times, yaw)), np.maximum(v, 0)]
    ego = np.column_stack([*columns, accel, rate, np.radians(Series(wheel.t, wheel.v[:, 0]).at(t))])

    vehicle, route = named(segment.absolute().parent.name)
    size = SIZES.get(vehicle, CAR)
    engaged, takeover = _hands(segment, t)
    who = "CAN: openpilot sends steering requests" if engaged is not None else "absent: not in this car's CAN"
    hand = f"engaged, and the driver's steering torque above {OVERRIDE} (openpilot's threshold)"
    notes = NOTES | {"engaged": who, "takeover": hand if takeover is not None else who}
    if lost:
        notes["clock"] = f"{lost * DT:.1f} s are left out: a sensor is silent for more than {GAP_S} s"
    if vehicle not in SIZES:
        notes["ego.size"] = f"assumed, {size} m: the vehicle is none of the set's two cars"
    meta = {
        "vehicle": vehicle,
        "drive": f"{route}--{segment.name}",
        "source": "comma2k19",
        "place": route,
        "route_id": route,
    }
    found = _objects(segment, t, ego, size[0])
    return Drive(meta, t, ego, size, objects=found, engaged=engaged, takeover=takeover, notes=notes)


def named(folder: str) -> tuple[str, str]:
    """Split the name of a route's folder into vehicle and route, whatever joins them."""
    found = ROUTE.fullmatch(folder)
    if found is None:
        return folder.partition("_")[0], folder
    vehicle = found[1].lower()
    return vehicle, f"{vehicle}_{found[2]}"


def _load(path: Path) -> np.ndarray:
    require(path.is_file(), f"{path}: missing; copy the segment again")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a complete NumPy array ({error}); copy it again") from None


def _series(segment: Path, name: str, width: int) -> Series:
    """One sensor's samples, v (N, width)."""
    folder = segment / "processed_log" / name
    t, v = _load(folder / "t"), _load(folder / "value")
    v = v[:, None] if v.ndim == 1 else v
    _require_columns(v, width, folder / "value")
    series = Series.checked(t, v, name, segment)
    finite = width == 7 or bool(np.isfinite(v).all())  # a radar leaves some columns empty
    require(finite, f"{folder / 'value'}: not finite; copy it again")
    return series


def _require_columns(values: np.ndarray, width: int, path: Path) -> None:
    ok = values.ndim == 2 and values.shape[1] == width and values.dtype.kind in "fiu"
    require(ok, f"{path}: {width} column{'s' * (width > 1)} of numbers expected, got {values.dtype} {values.shape}")


def _axes(ecef: np.ndarray) -> np.ndarray:
    """Rows east, north, up (3, 3) at a place (3,) on Earth (ECEF)."""
    a, e2 = WGS84
    lon, flat = np.arctan2(ecef[1], ecef[0]), np.hypot(ecef[0], ecef[1])
    lat = np.arctan2(ecef[2], flat * (1 - e2))
    for _ in range(4):  # to the millimetre near the ground
        n = a / np.sqrt(1 - e2 * np.sin(lat) ** 2)
        lat = np.arctan2(ecef[2] + e2 * n * np.sin(lat), flat)
    (sn, cn), (sl, cl) = ((np.sin(u), np.cos(u)) for u in (lon, lat))
    return np.array([[-sn, cn, 0], [-sl * cn, -sl * sn, cl], [cl * cn, cl * sn, sl]])


def _forward(q: np.ndarray) -> np.ndarray:
    """Directions (N, 3) of the device's x axis, from unit quaternions (N, 4) w, x, y, z, device to Earth."""
    w, x, y, z = q.T
    return np.column_stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)])


def _heading(ahead: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """The car's yaw (N,) rad, unwrapped, from the device's axis and velocity (N, 3) in the map frame.

    The device points slightly off the driving direction: by the median angle to the course, where there is one.
    """
    yaw = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
    goes = np.hypot(velocity[:, 0], velocity[:, 1]) > 5.0
    aside = wrapped(yaw - np.arctan2(velocity[:, 1], velocity[:, 0]))[goes]
    return yaw - (np.median(aside) if len(aside) else 0.0)


def _objects(segment: Path, t: np.ndarray, ego: np.ndarray, length: float) -> Objects | None:
    """The radar's moving targets as cars; None without a radar.

    Columns of its values: distance ahead m (from the bumper), to the left m, relative speed m/s, two unused, address of
    the track, whether it is a new one.
    """
    if not (segment / "processed_log" / RADAR).is_dir():
        return None
    radar = _series(segment, RADAR, 7)
    over_ground = np.interp(radar.t, t, ego[:, 3]) + radar.v[:, 2]
    tracks: list[np.ndarray] = []
    for address in np.unique(radar.v[:, 5]):
        of = np.flatnonzero(radar.v[:, 5] == address)
        new = np.flatnonzero((np.diff(radar.t[of]) > LOST_S) | (radar.v[of[1:], 6] > 0)) + 1
        tracks += [p for p in np.split(of, new) if radar.t[p[-1]] - radar.t[p[0]] >= LASTS_S]
    tracks = [p for p in tracks if np.median(over_ground[p]) > MOVING]
    tracks.sort(key=lambda p: (-len(p), p[0]))
    seen = np.array([(t >= radar.t[p[0]]) & (t <= radar.t[p[-1]]) for p in tracks]).reshape(len(tracks), len(t))
    where = np.array([[np.interp(t, radar.t[p], radar.v[p, c]) for c in (0, 1)] for p in tracks])
    where = where.reshape(len(tracks), 2, len(t))
    kept: list[int] = []
    for i in range(len(tracks)):
        if seen[i].any() and not any(_twins(where[i], where[k], seen[i] & seen[k]) for k in kept):
            kept.append(i)
    states = np.zeros((len(kept), len(t), 4), np.float32)
    cos, sin = np.cos(ego[:, 2]), np.sin(ego[:, 2])
    for o, i in enumerate(kept):
        ahead, left = where[i, 0] + (length + CAR[0]) / 2, where[i, 1]
        speed = np.maximum(np.interp(t, radar.t[tracks[i]], over_ground[tracks[i]]), 0)
        state = (ego[:, 0] + ahead * cos - left * sin, ego[:, 1] + ahead * sin + left * cos, ego[:, 2], speed)
        states[o] = np.where(seen[i][:, None], np.column_stack(state), 0)
    size = np.tile(np.array(CAR, np.float32), (len(kept), 1))
    return Objects(np.arange(len(kept)), np.full(len(kept), AGENT_CAR), size, states, seen[kept])


def _twins(a: np.ndarray, b: np.ndarray, both: np.ndarray) -> bool:
    """Whether two targets (2, T) stand, while both are seen (T,), at the same place."""
    return bool(both.any()) and bool((np.median(np.abs(a - b)[:, both], axis=1) < TWIN_M).all())


def _hands(segment: Path, t: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Whether openpilot steers, and whether the driver's hand overrides it (T,); None if CAN does not say."""
    folder = segment / "processed_log" / "CAN" / "raw_can"
    if not folder.is_dir():
        return None, None
    at, address, bus, data = (_load(folder / name) for name in ("t", "address", "src", "data"))
    for name, values in (("address", address), ("src", bus), ("data", data)):
        Series.checked(at, values, f"raw_can/{name}", segment)
    asked, felt = (address == LKA) & (bus == SENT), (address == EPS_TORQUE) & (bus == 0)
    if not asked.any() or not felt.any() or data.dtype != np.dtype("S8"):
        return None, None
    request = _bytes(data[asked])[:, 0] & 1  # STEER_REQUEST
    torque = _bytes(data[felt])[:, 1:3].copy().view(">i2")[:, 0]  # STEER_TORQUE_DRIVER
    engaged = request[np.maximum(np.searchsorted(at[asked], t, side="right") - 1, 0)].astype(bool)
    pressed = np.abs(torque.astype(int)) > OVERRIDE
    return engaged, engaged & pressed[np.maximum(np.searchsorted(at[felt], t, side="right") - 1, 0)]


def _bytes(data: np.ndarray) -> np.ndarray:
    return np.frombuffer(data.tobytes(), np.uint8).reshape(-1, 8)
