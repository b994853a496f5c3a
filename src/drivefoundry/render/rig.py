"""Cameras of a car: mounts, lens projections, and presets of one to six cameras.

Letters: V views of a rig, H, W image rows and columns. Camera frame: x right, y down, z ahead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from drivefoundry.types import require
from drivefoundry_car.vehicle.embodiment import CameraSpec

SIDE_LENS = 1.4281480067421144
"""Focal length over half the width for a field of view of 70 degrees, as five of nuScenes' six cameras have."""
REAR_LENS = 0.7002075382097097
"""The same for 110 degrees, as its rear camera has."""


@dataclass(frozen=True)
class View(CameraSpec):
    """One camera on the car, as the simulator draws it; x, y, z are relative to the box centre on the ground.

    k1, k2: a ray at distance r from the axis, at depth 1, is seen at r (1 + k1 r^2 + k2 r^4), as in OpenCV.

    samples: samples per pixel along each axis for objects above ground, 1 or 2. Two smooth edges; one costs a quarter,
    and suffices for high resolution: 256x128 with one has as many samples per degree as 128x64 with two.
    """

    samples: int = 2

    @staticmethod
    def of(camera: CameraSpec) -> View:
        """A vehicle's camera."""
        return View(**vars(camera))

    @property
    def warped(self) -> bool:
        """Whether the picture differs from that of a level pinhole camera."""
        return (self.roll, self.k1, self.k2) != (0.0, 0.0, 0.0)

    def rays(self) -> np.ndarray:
        """(H, W, 2) x and y at depth 1, in the frame of the camera before its roll, of the ray of each pixel centre.

        ValueError if the distortion folds the picture, so that some pixel has no ray.
        """
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        xd, yd = (u - self.cx) / self.fx, (v - self.cy) / self.fy
        seen = np.hypot(xd, yd)
        r = seen.copy()
        for _ in range(20):  # Newton's method; the lens is monotonic wherever it is invertible
            gain = np.maximum(1 + 3 * self.k1 * r**2 + 5 * self.k2 * r**4, 1e-3)
            r = np.clip(r - (r * (1 + self.k1 * r**2 + self.k2 * r**4) - seen) / gain, 0.0, 10.0)
        wrong = np.abs(r * (1 + self.k1 * r**2 + self.k2 * r**4) - seen).max()
        reach = np.linspace(0.0, float(r.max()), 256)
        folds = (1 + 3 * self.k1 * reach**2 + 5 * self.k2 * reach**4).min() <= 0
        require(
            bool(np.isfinite(wrong)) and wrong < 1e-6 and not folds,
            f"View: k1 {self.k1}, k2 {self.k2} fold the picture within its corners; reduce the distortion",
        )
        k = np.divide(r, seen, out=np.ones_like(r), where=seen > 0)
        x, y, c, s = xd * k, yd * k, np.cos(self.roll), np.sin(self.roll)
        return np.stack([x * c - y * s, x * s + y * c], -1)

    def sampling(self) -> tuple[View, np.ndarray]:
        """A level pinhole view that covers this one, and (H, W, 2) the position of each pixel in its picture, px."""
        rays = self.rays()
        low, high = rays.reshape(-1, 2).min(0), rays.reshape(-1, 2).max(0)
        left, top = np.floor(low[0] * self.fx) - 1, np.floor(low[1] * self.fy) - 1
        wide, tall = int(np.ceil(high[0] * self.fx) - left) + 1, int(np.ceil(high[1] * self.fy) - top) + 1
        require(
            wide * tall <= 16 * self.width * self.height,
            "View: k1, k2 bend the picture's corners too far out; reduce the distortion",
        )
        level = replace(self, width=wide, height=tall, cx=float(-left), cy=float(-top), roll=0.0, k1=0.0, k2=0.0)
        return level, rays * (self.fx, self.fy) - (left, top)


@dataclass(frozen=True)
class Rig:
    """The cameras of one car, all with the same picture size."""

    views: tuple[View, ...] = (View(),)

    def __post_init__(self) -> None:
        require(len(self.views) > 0, "Rig: give at least one view")
        sizes = {(v.width, v.height) for v in self.views}
        require(len(sizes) == 1, f"Rig: all views must have one size, got {sorted(sizes)}")
        require(min(sizes.pop()) > 0, "Rig: width and height must be > 0")
        for i, v in enumerate(self.views):
            require(v.samples in (1, 2), f"Rig: view {i} has {v.samples} samples; must be 1 or 2")
            require(v.fx > 0 and v.fy > 0, f"Rig: view {i}: fx and fy must be > 0, got {v.fx} and {v.fy}")

    @staticmethod
    def of(cameras: Iterable[CameraSpec]) -> Rig:
        """The rig of a vehicle's cameras, all with the same picture size."""
        return Rig(tuple(View.of(c) for c in cameras))

    @staticmethod
    def front() -> Rig:
        """One camera behind the windscreen, 80 degrees wide."""
        return Rig()

    @staticmethod
    def three() -> Rig:
        """Front, front-left and front-right: 200 degrees, the outer two turned by 60."""
        side = View(x=0.8, z=1.5)
        turn = float(np.deg2rad(60.0))
        return Rig((View(), replace(side, y=0.4, yaw=turn), replace(side, y=-0.4, yaw=-turn)))

    @staticmethod
    def six() -> Rig:
        """Front, front-left, front-right, rear-left, rear-right and rear: all around, laid out as on nuScenes' cars."""
        wide, high = 160, 90
        view = View(wide, high, SIDE_LENS * wide / 2, SIDE_LENS * wide / 2, wide / 2, high / 2)
        lens = REAR_LENS * wide / 2
        mounts = [(1.0, 0.0, 0.0), (0.8, 0.5, 55.0), (0.8, -0.5, -55.0), (0.3, 0.5, 110.0), (0.3, -0.5, -110.0)]
        around = [replace(view, x=x, y=y, yaw=float(np.deg2rad(a))) for x, y, a in mounts]
        return Rig((*around, replace(view, fx=lens, fy=lens, x=-0.9, yaw=float(np.pi))))

    @property
    def width(self) -> int:
        return self.views[0].width

    @property
    def height(self) -> int:
        return self.views[0].height

    def scaled(self, width: int, height: int) -> Rig:
        """Apply `View.scaled` to every view."""
        return Rig(tuple(v.scaled(width, height) for v in self.views))
