"""The daemon's configuration: one TOML file, every field checked. `docs/car.md` has an example.

Paths are relative to the file's folder. Fields without a default must be given; without [upload] or [update], that
process does not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drivefoundry_car.daemon.cameras import RGB
from drivefoundry_car.documents import read_bytes, read_toml, typed
from drivefoundry_car.log.channels import FORMATS, FRONT, Camera
from drivefoundry_car.triggers.trigger import load_campaigns
from drivefoundry_car.upload.endpoint import checked
from drivefoundry_car.upload.link import UploadWindow
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment, from_json

LONGEST_PATH = 100
"""Maximum length of a Unix socket's path on all kernels, bytes."""


@dataclass(frozen=True)
class CameraConfig:
    """One camera: width, height px; intrinsics fx, fy, cx, cy px; mount x, y, z m and pitch rad (positive down) from
    the box centre on the ground; yaw rad, positive left; format of its messages; rate_hz: frames per second."""

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    mount: tuple[float, float, float, float]
    yaw: float = 0.0
    format: str = RGB
    rate_hz: float = 10.0

    def camera(self) -> Camera:
        """The camera as it is recorded."""
        form = "h264" if self.format == RGB else self.format
        return Camera(self.width, self.height, self.intrinsics, self.mount, self.yaw, form)

    def validate(self) -> CameraConfig:
        known = (RGB, *FORMATS)
        _must(self.width > 0 and self.width % 2 == 0, "width", self.width, "be even and > 0")
        _must(self.height > 0 and self.height % 2 == 0, "height", self.height, "be even and > 0")
        _must(self.format in known, "format", self.format, f"be one of {', '.join(known)}")
        _must(1.0 <= self.rate_hz <= 120.0, "rate_hz", self.rate_hz, "be within 1 and 120")
        return self


@dataclass(frozen=True)
class DrivingConfig:
    """slots: folder of the releases; root: the root.json that the car was shipped with; lockstep: the vehicle (a
    simulator or a recording) waits for the controls of each state, and its times are the clock; deadline_s: the
    planner's; patience_s: how long a plan is followed; reason_every: decisions between requests to the reasoner, 0 for
    never; embodiment: JSON file that describes the vehicle (`vehicle.embodiment`), by default the fleet's car."""

    slots: Path
    root: Path
    lockstep: bool = False
    deadline_s: float = 0.5
    patience_s: float = 1.25
    reason_every: int = 4
    embodiment: Path | None = None

    @property
    def vehicle(self) -> Embodiment:
        """The embodiment of this car."""
        return CAR if self.embodiment is None else from_json(read_bytes(self.embodiment), self.embodiment)

    def validate(self) -> DrivingConfig:
        _ = self.vehicle
        _must(self.root.is_file(), "root", self.root, "be the root.json that the repository was created with")
        _must(self.deadline_s > 0, "deadline_s", self.deadline_s, "be > 0")
        _must(self.patience_s >= 0.5, "patience_s", self.patience_s, "be >= 0.5: decisions are 0.5 s apart")
        _must(self.reason_every >= 0, "reason_every", self.reason_every, "be >= 0")
        return self


@dataclass(frozen=True)
class RecordingConfig:
    """spool: folder in which clips are recorded, and which contains the queue; campaigns: file of campaigns, '' for
    those that ship; meta: added to every drive's meta, such as groups and place."""

    spool: Path
    campaigns: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def queue(self) -> Path:
        """Folder where complete clips wait for the uploader."""
        return self.spool / "queue"

    def validate(self) -> RecordingConfig:
        load_campaigns(self.campaigns or None)
        return self


@dataclass(frozen=True)
class UploadConfig:
    """server: URL of the ingest service; credential: the file that enrolment wrote; every_s: interval between checks of
    the queue, s; bytes_per_day: of all campaigns together; windows: when the link may be used, see
    `upload.link.UploadWindow`; insecure_http: allow plain http to other machines."""

    server: str
    credential: Path
    every_s: float = 10.0
    bytes_per_day: int | None = None
    windows: tuple[UploadWindow, ...] = ()
    insecure_http: bool = False

    def validate(self) -> UploadConfig:
        checked(self.server, self.insecure_http)
        _must(self.every_s > 0, "every_s", self.every_s, "be > 0")
        return self


@dataclass(frozen=True)
class UpdateConfig:
    """source: the repository's folder or URL; metadata: folder for its signed metadata; cohort; every_s: interval
    between checks of the repository, s; insecure_http: allow plain http to other machines."""

    source: str
    metadata: Path
    cohort: str = "all"
    every_s: float = 3600.0
    insecure_http: bool = False

    def validate(self) -> UpdateConfig:
        if "://" in self.source:
            checked(self.source, self.insecure_http, "source")
        _must(self.every_s > 0, "every_s", self.every_s, "be > 0")
        return self


@dataclass(frozen=True)
class Config:
    """vehicle: the car's name; socket: where the vehicle listens; status: file of the status report; cameras by name,
    including 'front'."""

    vehicle: str
    socket: Path
    status: Path
    cameras: Mapping[str, CameraConfig]
    driving: DrivingConfig
    recording: RecordingConfig
    upload: UploadConfig | None = None
    update: UpdateConfig | None = None

    def validate(self) -> Config:
        _must(self.vehicle != "", "vehicle", self.vehicle, "be the name that the car was enrolled with")
        length = len(str(self.socket).encode())
        _must(length <= LONGEST_PATH, "socket", self.socket, f"have at most {LONGEST_PATH} bytes, not {length}")
        _must(FRONT in self.cameras, "cameras", list(self.cameras), f"have one named '{FRONT}', which models see")
        return self


def load(path: Path) -> Config:
    """Read a configuration. ValueError is one line: file, field, fix."""
    try:
        return typed(Config, read_toml(path), folder=path.resolve().parent)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _must(holds: bool, name: str, got: object, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} must {what}; got {got if isinstance(got, int | float | list) else repr(str(got))}")
