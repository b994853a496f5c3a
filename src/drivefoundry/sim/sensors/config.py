"""Configuration of simulated perception: the parameters of `perception.ObjectDetector`."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry.bounds import in_range, positive
from drivefoundry.seeds import MAX_SEED
from drivefoundry.types import DT, require


@dataclass(frozen=True)
class Perception:
    """Errors of a detector with cameras all around the car, followed by a tracker.

    The defaults are of the magnitude that camera-only detectors reach on nuScenes' test set (Caesar et al., CVPR 2020):
    BEVFormer (Li et al., ECCV 2022) with a mean translation error of 0.58 m, an orientation error of 0.38 rad and a
    velocity error of 0.38 m/s among its matches, StreamPETR (Wang et al., ICCV 2023) with 0.47 m, 0.26 rad and 0.24
    m/s; their scale errors of 0.24 to 0.26 in IoU correspond to about 8 % of each side. All of them have depth errors
    that grow with range while bearings stay accurate, and miss small and half-hidden objects first; the constants of
    those two trends are ours. All standard deviations are of normally distributed errors.
    """

    perfect: bool = False
    """Report ground truth instead, for comparison."""
    range_m: float = 60.0
    """Maximum distance of reported objects."""
    latency_s: float = 0.2
    """Age of the report, s; objects are extrapolated with their estimated velocity. A multiple of 0.1."""
    visible: float = 0.3
    """Minimum share of an object's silhouette that must be visible."""
    miss: float = 0.02
    """Probability of missing even a large object nearby."""
    small_rad: float = 0.02
    """An object of this angular size (root of visible width x height, over distance) is missed with a probability of
    `miss` + 1/e; twice the angle with `miss` + 1/e^2, and so on."""
    depth_m: float = 0.2
    """Error along the line of sight at distance 0, m."""
    depth_share: float = 0.02
    """Additional error per metre of distance."""
    bearing_rad: float = 0.005
    """Error across the line of sight, rad."""
    yaw_rad: float = 0.15
    """Heading error of vehicles; twice as large for pedestrians and cyclists."""
    speed_mps: float = 0.3
    speed_share: float = 0.03
    """Additional error per m/s."""
    size_share: float = 0.08
    """Error of length and width, relative to each."""
    false_alarms: float = 0.05
    """Number of false objects per decision, of a car's size, anywhere in range; each lasts a second."""
    seed: int = 0

    def validate(self) -> Perception:
        shares = ("visible", "miss", "depth_share", "speed_share", "size_share", "false_alarms")
        in_range(self, 0, 1, *shares)
        in_range(self, 0, 10, "depth_m", "bearing_rad", "yaw_rad", "speed_mps")
        in_range(self, 0, 0.5, "latency_s")
        positive(self, 1000, "range_m")
        positive(self, 10, "small_rad")
        steps = self.latency_s / DT
        require(abs(steps - round(steps)) < 1e-6, f"latency_s: must be a multiple of {DT}, got {self.latency_s}")
        in_range(self, 0, MAX_SEED, "seed")
        return self

    def __str__(self) -> str:
        """Description for tables with figures of a car that has a guard."""
        if self.perfect:
            return "the simulator's ground truth, without error"
        return (
            f"a model of a camera detector: {self.range_m:.0f} m range, {self.latency_s:g} s latency, depth error "
            f"{self.depth_m:g} m + {100 * self.depth_share:g} %, misses from {100 * self.miss:g} % up, "
            f"{self.visible:.0%} of a silhouette needed, {self.false_alarms:g} false alarms per decision"
        )
