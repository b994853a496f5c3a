"""Each campaign of the library fires on its scene and not on a similar one."""

from __future__ import annotations

import pytest

from drivefoundry_car.triggers import LIBRARY, firings, load_campaigns, not_evaluable
from drivefoundry_car.triggers.novelty import Sent, embedding
from drivefoundry_car.triggers.signals import SIGNALS, SignalContext, signals_of
from watched import SCENES, STOP_LINES, picked

CAMPAIGNS = {c.name: c for c in load_campaigns(LIBRARY)}


@pytest.fixture(scope="module")
def context(make_drive):
    sent = Sent()
    sent.add(embedding(signals_of(make_drive(steps=600), SignalContext(STOP_LINES))))
    return SignalContext(STOP_LINES, sent)


def fired(make_drive, context, change):
    drive = make_drive(steps=600)
    return {f.campaign for f in firings(list(CAMPAIGNS.values()), change(drive) or drive, context)}


def test_the_library_is_what_it_says(make_drive, context):
    assert len(CAMPAIGNS) >= 25
    assert set(SCENES) == set(CAMPAIGNS)
    full = picked("")(make_drive())
    assert not_evaluable(list(CAMPAIGNS.values()), full, context) == {}
    assert set(signals_of(full, context)) == set(SIGNALS)


def test_a_quiet_drive_fires_nothing(make_drive, context):
    assert fired(make_drive, context, picked("")) == set()


@pytest.mark.parametrize("name", SCENES)
def test_it_fires_where_it_must(make_drive, context, name):
    assert name in fired(make_drive, context, SCENES[name][0])


@pytest.mark.parametrize("name", SCENES)
def test_it_does_not_where_it_must_not(make_drive, context, name):
    assert name not in fired(make_drive, context, SCENES[name][1])
