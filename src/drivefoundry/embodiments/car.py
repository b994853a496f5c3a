"""The fleet's passenger car, the default of the car package."""

from __future__ import annotations

from drivefoundry_car.vehicle.embodiment import CAR

EMBODIMENT = CAR
