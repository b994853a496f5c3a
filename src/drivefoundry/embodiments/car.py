"""The fleet's passenger car, on which cars by default agree: the car package brings it along."""

from __future__ import annotations

from drivefoundry_car.vehicle.embodiment import CAR

EMBODIMENT = CAR
