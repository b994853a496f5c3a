"""Hour and weather as numbers for rendering: light from the sky, added light from lamps, attenuation by the air.

The sun moves as at an equinox at 45 degrees north. Colours are 0..255 RGB as the camera outputs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivefoundry.types import require

(ON, SUN_X, SUN_Y, AMBIENT, DIRECT, LIGHT, LOW, TOP, THIN, RAIN, LAMPS_ON, NOISE, EXPOSURE, SEED) = np.array(
    [0, 1, 2, 3, 4, 5, 8, 11, 14, 15, 16, 17, 18, 19]
)
"""Columns of `Conditions.row`; LIGHT, LOW and TOP (light, and the sky near the horizon and overhead) take three
each."""
COLUMNS = 20
LATITUDE = np.deg2rad(45.0)
CLEAR_HOUR = 10.33
"""Hour at which the sun is where the shading of a clear day's walls assumes it."""
CLEAR_RANGE = 380.0
"""Distance over which clear air attenuates a colour to 1/e, m."""
CONTRAST = 3.912
"""-ln 0.02: at the visibility distance, 2 % of the contrast is left (Koschmieder 1924)."""

_ELEVATION = np.array([-12.0, -6.0, -1.0, 4.0, 20.0])
_LIGHT = np.array([[0.075, 0.085, 0.125], [0.16, 0.16, 0.22], [0.42, 0.36, 0.38], [0.84, 0.70, 0.58], [1, 1, 1]])
_LOW = np.array([[14, 17, 28], [58, 44, 58], [196, 122, 92], [240, 190, 146], [206, 218, 230]], np.float64)
_TOP = np.array([[3, 5, 13], [14, 20, 48], [56, 68, 118], [92, 126, 186], [96, 148, 214]], np.float64)


@dataclass(frozen=True)
class Conditions:
    """Light and weather of one scene, and sensor effects. The defaults are a clear day.

    hour: local solar time, 0..24; rain 0..1; fog: visibility, m; noise: standard deviation, in 0..255; exposure: gain;
    seed: determines the pattern of noise and rain, with the view, the step and the pixel.
    """

    hour: float = CLEAR_HOUR
    rain: float = 0.0
    fog: float = np.inf
    noise: float = 0.0
    exposure: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(0.0 <= self.hour <= 24.0, f"Conditions.hour: must be 0 to 24, got {self.hour}")
        require(0.0 <= self.rain <= 1.0, f"Conditions.rain: must be 0 to 1, got {self.rain}")
        require(self.fog >= 10.0, f"Conditions.fog: must be a visibility >= 10 m, got {self.fog}")
        require(0.0 <= self.noise <= 64.0, f"Conditions.noise: must be 0 to 64, got {self.noise}")
        require(0.05 <= self.exposure <= 20.0, f"Conditions.exposure: must be 0.05 to 20, got {self.exposure}")
        require(0 <= self.seed < 2**52, f"Conditions.seed: must be 0 to 2^52, got {self.seed}")

    @staticmethod
    def clear() -> Conditions:
        """A clear day seen by a perfect sensor: the default of rendering."""
        return Conditions()

    @staticmethod
    def draw(seed: int) -> Conditions:
        """Sample an hour and weather for domain randomisation. Half the days are dry, a quarter of the hours dark."""
        rng = np.random.default_rng(seed)
        hour = rng.uniform(7.0, 17.0) if rng.random() < 0.65 else rng.uniform(17.0, 31.0) % 24.0
        rain = rng.uniform(0.1, 1.0) if rng.random() < 0.35 else 0.0
        fog = float(np.exp(rng.uniform(np.log(60.0), np.log(1500.0)))) if rng.random() < 0.25 else np.inf
        return Conditions(hour, rain, fog, rng.uniform(0.0, 6.0), float(np.exp(rng.normal(0.0, 0.15))), seed)

    @property
    def sun(self) -> tuple[float, float]:
        """Elevation and azimuth (counter-clockwise from east, the map's x) of the sun, rad."""
        angle = (self.hour - 12.0) * np.pi / 12.0
        east, north = -np.sin(angle), -np.sin(LATITUDE) * np.cos(angle)
        return float(np.arcsin(np.cos(LATITUDE) * np.cos(angle))), float(np.arctan2(north, east))

    def row(self) -> np.ndarray:
        """(COLUMNS,) parameters for the drawing code."""
        out = np.zeros(COLUMNS)
        if self == Conditions(seed=self.seed):
            return out
        elevation, azimuth = self.sun
        degrees = np.rad2deg(elevation)
        light, low, top = (
            np.array([np.interp(degrees, _ELEVATION, of[:, c]) for c in range(3)]) for of in (_LIGHT, _LOW, _TOP)
        )
        # Clouds: less light, neither coloured nor directional, and a grey sky.
        cloud = min(1.0, 1.6 * self.rain)
        light = (1 - cloud) * light + cloud * 0.78 * light.mean()
        grey = 0.75 * low.mean()
        low = (1 - cloud) * low + cloud * grey * np.array([0.98, 1.0, 1.03])
        veil = 1 - np.exp(-CONTRAST * 250.0 / self.fog)
        top = (1 - cloud) * top + cloud * 0.8 * grey
        top = (1 - veil) * top + veil * low
        direct = 0.24 * np.clip(degrees / 20.0, 0.0, 1.0) * (1 - cloud) * (1 - veil)
        dark = np.clip((8.0 - degrees) / 6.0, 0.0, 1.0)
        lamps = max(float(dark), float(self.rain > 0.2), float(self.fog < 400.0))
        # Rain itself limits visibility: 4 km in a drizzle, 400 m in a downpour.
        out[:LIGHT] = 1.0, np.cos(azimuth), np.sin(azimuth), 0.76 + 0.3 * (0.24 - direct), direct
        out[LIGHT:LOW], out[LOW:TOP], out[TOP:THIN] = light, low, top
        out[THIN] = 1 / CLEAR_RANGE + CONTRAST / self.fog + self.rain * CONTRAST / 900.0
        out[RAIN:] = self.rain, lamps, self.noise, self.exposure, self.seed
        return out
