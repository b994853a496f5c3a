"""What runs in a vehicle: logs, triggers, recording, upload, update, the engine and the runtime that drives."""

from drivefoundry_car.moved import install as _install

_install()
del _install
