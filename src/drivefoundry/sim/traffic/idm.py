"""The intelligent driver model: how drivers keep their distance (Treiber, Hennecke and Helbing 2000)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def idm(v, v0, gap, v_lead, accel=2.0, brake=3.0, headway=1.3, standstill=2.5):
    """Acceleration, m/s^2, at speed v with desired speed v0 and a gap, m, to a lead at speed v_lead."""
    free = 1.0 - (v / max(v0, 0.1)) ** 4
    want = standstill + max(0.0, v * headway + v * (v - v_lead) / (2.0 * np.sqrt(accel * brake)))
    return accel * (free - (want / max(gap, 0.3)) ** 2)
