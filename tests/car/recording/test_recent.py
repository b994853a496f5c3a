"""A running car derives the same signals as a stored drive, moment by moment, so the same rules fire."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry_car.log import Drive
from drivefoundry_car.recording.recent import Recent, moments
from drivefoundry_car.triggers.novelty import Sent, embedding
from drivefoundry_car.triggers.signals import SIGNALS, SignalContext, latest, signals_of

NAMES = list(SIGNALS)


def eventful(make_drive, seed: int) -> Drive:
    """A drive in which everything changes."""
    drive, rng = make_drive(steps=120, seed=seed, picks="4.0 7.33"), np.random.default_rng(seed)
    drive.ego[:, 1] = np.cumsum(rng.normal(0, 0.05, 120))
    drive.ego[:, 2:7] += rng.normal(0, 0.2, (120, 5))
    drive.ego[rng.random(120) < 0.05, 4:] = np.nan
    drive.objects.states[1, :, 0] = 10 * drive.t + rng.normal(8, 3)
    drive.objects.states[1, :, 1] = np.linspace(rng.normal(-6, 2), 6, 120)
    drive.objects.valid[:] = rng.random((2, 120)) < 0.8
    drive.takeover[50:53] = True
    drive.engaged[50:90] = False
    drive.signal_state[0, 40:80] = 1
    drive.correction.points[10:14, :, 1] += 3
    return replace(drive, plan=replace(drive.plan, t=drive.plan.t[:20], points=drive.plan.points[:20],
                                       text=drive.plan.text[:20]))  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_the_signals_of_each_moment_are_those_of_the_stored_drive(make_drive, seed):
    drive = eventful(make_drive, seed)
    lines = np.array([[60.0, -3, 60, 3]] * 6)
    context = SignalContext(lines, Sent(embedding(signals_of(make_drive(steps=5)))))
    wanted = signals_of(drive, context)
    assert set(wanted) == set(NAMES)
    recent = Recent(drive.meta | {"picks": ""}, drive.ego_size)
    got = np.array([latest(recent.push(now), NAMES, context) for now in moments(drive)])
    for i, name in enumerate(NAMES):
        if name != "pick":
            np.testing.assert_array_equal(got[:, i], wanted[name], err_msg=name)
    assert np.flatnonzero(got[:, NAMES.index("pick")]).tolist() == [*range(40, 45), *range(74, 79)]


def test_what_a_car_does_not_know_is_unknown_and_not_nothing(make_drive):
    (first, second, *_) = moments(make_drive(steps=5))
    recent = Recent({}, (4.6, 1.9, 1.6))
    seen = dict(zip(NAMES, latest(recent.push(first), NAMES), strict=True))
    blind = replace(second, objects=None, signals=None, engaged=None, takeover=None, route=None, plan=None)
    unseen = dict(zip(NAMES, latest(recent.push(blind), NAMES), strict=True))
    for name in ("gap", "lead_gap", "engaged", "takeover", "speed_limit"):
        assert np.isfinite(seen[name])
        assert np.isnan(unseen[name])
    assert unseen["speed"] == 10
