"""Signals have their documented meaning, and a running car derives the same as a stored drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car import arrays
from drivefoundry_car.log import Drive, Objects, Plans, cut
from drivefoundry_car.triggers import LIBRARY, Watch, firings, load_campaigns
from drivefoundry_car.triggers.novelty import DIMS, MOST, Sent, embedding
from drivefoundry_car.triggers.signals import SIGNALS, SignalContext, latest, signals_of
from drivefoundry_car.triggers.watch.surroundings import nearest, place_on
from watched import CAR, CYCLIST, PEDESTRIAN, STOP_LINES, comes_in, picked, with_object


def random_drive(seed: int, steps: int = 80) -> Drive:
    """Everything at once, on an uneven clock."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.03, 0.2, steps))
    ego = np.zeros((steps, 7))
    ego[:, 2] = np.cumsum(rng.normal(0, 0.02, steps))
    ego[:, 3] = np.abs(8 + np.cumsum(rng.normal(0, 0.5, steps)))
    ego[:, 0], ego[:, 1] = np.cumsum(ego[:, 3] * 0.1), rng.normal(0, 1, steps)
    ego[:, 4:] = rng.normal(0, 1, (steps, 3))
    ego[rng.random(steps) < 0.1, 5] = np.nan
    n = 7
    states = np.zeros((n, steps, 4), np.float32)
    states[..., :2] = ego[:, :2] + rng.normal(0, 15, (n, 1, 2)) + np.cumsum(rng.normal(0, 0.5, (n, steps, 2)), axis=1)
    states[..., 2:] = rng.normal(0, 2, (n, steps, 2))
    size = rng.uniform(0.5, 5, (n, 3)).astype(np.float32)
    objects = Objects(np.arange(n), rng.integers(0, 4, n), size, states, rng.random((n, steps)) < 0.9)
    decided = t[rng.random(steps) < 0.3]
    points = rng.normal(0, 10, (2, len(decided), 8, 3)).astype(np.float32)
    return Drive(
        {"picks": f"{t[20]:.2f} {t[40] + 0.01:.2f}"}, t, ego,
        route=np.column_stack([np.arange(-50, 400, 2.0), np.zeros(225), np.full(225, 13.9)]), objects=objects,
        signal_id=np.array([5, 2]), signal_state=rng.integers(0, 4, (2, steps)).astype(np.uint8),
        engaged=rng.random(steps) < 0.5, takeover=rng.random(steps) < 0.1,
        plan=Plans(decided, points[0], [""] * len(decided)), correction=Plans(decided, points[1], [""] * len(decided)),
    )  # fmt: skip


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_online_signals_are_the_stored_ones(seed):
    drive = random_drive(seed)
    sent = Sent()
    sent.add(embedding(signals_of(random_drive(seed + 1), SignalContext(STOP_LINES))))
    context = SignalContext(STOP_LINES, sent)
    stored = signals_of(drive, context)
    assert set(stored) == set(SIGNALS)
    for i in [0, 1, 2, *range(3, len(drive.t), 7)]:
        online = latest(part(drive, i), list(SIGNALS), context)
        np.testing.assert_array_equal(online, [float(stored[name][i]) for name in SIGNALS], f"sample {i}")


def part(drive: Drive, last: int) -> Drive:
    """What a car knows at a sample, including plans decided at that very time."""
    return cut(drive, 0.0, float(drive.t[last]) + 1e-5)


def test_who_is_on_the_way(make_drive):
    drive = make_drive()
    drive = with_object(drive, CAR, drive.ego[:, 0] + 60, 3.5, np.pi, 8.0)
    drive = with_object(drive, CAR, 320.0, 0.2)
    drive = with_object(drive, CYCLIST, drive.ego[:, 0], -3.0)
    drive = with_object(drive, PEDESTRIAN, drive.ego[:, 0] + 12, -4.0, np.pi / 2, 1.0)
    values = signals_of(drive)
    np.testing.assert_allclose(values["lead_gap"][:290], 25.4, atol=1e-4)
    np.testing.assert_allclose(values["headway"][:290], 2.54, atol=1e-4)
    np.testing.assert_allclose(values["lead_speed"], np.where(drive.t < 29.05, 10, 0), atol=1e-6)
    np.testing.assert_allclose(values["oncoming_gap"], 60 - 4.6, atol=1e-4)
    np.testing.assert_allclose(values["crossing_gap"], 12 - 0.3 - 2.3, atol=1e-4)
    np.testing.assert_allclose(values["cyclist_gap"], 3.0 - 0.3 - 0.95, atol=1e-4)
    assert np.isinf(values["stopped_gap"][:240]).all()  # 80 m is as far as it looks
    assert values["stopped_gap"][280] == pytest.approx(320 - 280 - 4.6, abs=1e-4)
    assert np.isinf(values["cut_in_gap"]).all()
    np.testing.assert_array_equal(values["objects_near"][:240], 3)


def test_a_way_bends_with_the_yaw_rate(make_drive):
    drive = make_drive()
    drive.ego[:, 5] = 0.5  # a radius of 20 m: 14 m ahead, the way is 4.9 m to the left
    straight, bent = (with_object(drive, CAR, drive.ego[:, 0] + 14, y, yaw) for y, yaw in ((0, 0), (4.9, 0.7)))
    assert np.isinf(signals_of(straight)["lead_gap"]).all()
    assert (signals_of(bent)["lead_gap"] < 14).all()


def test_a_cut_in_is_one_moment(make_drive):
    gap = signals_of(comes_in(15, 3.5, 0)(make_drive()))["cut_in_gap"]
    (at,) = np.flatnonzero(np.isfinite(gap))
    assert 10 < at * 0.1 < 12
    assert 10 < gap[at] < 11


def test_on_the_route(make_drive):
    drive = make_drive(steps=600)
    drive.ego[:, 1] = 0.7
    drive.ego[50:60, 1] = 30
    drive.signal_state[1, :120] = 3
    values = signals_of(drive, SignalContext(STOP_LINES))
    on = (drive.t <= 39.8) & ((drive.t < 4.95) | (drive.t > 5.95))
    np.testing.assert_allclose(values["route_offset"], np.where(on, 0.7, np.nan), atol=1e-9)
    np.testing.assert_array_equal(values["speed_limit"], np.where(on, 13.9, np.nan))
    red = np.where(drive.t < 11.95, 150 - 10 * drive.t - 2.3, 900)
    np.testing.assert_allclose(values["red_gap"][on & (drive.t < 12)], red[on & (drive.t < 12)], atol=1e-9)
    assert np.isinf(values["red_gap"][120:390]).all()
    assert "red_gap" not in signals_of(drive)
    assert "red_gap" not in signals_of(drive, SignalContext(STOP_LINES[:2]))  # another map's


def test_plan_error_is_of_the_plan_of_two_seconds_ago(make_drive):
    drive = make_drive()
    values = signals_of(drive)["plan_error"]
    assert np.isnan(values[:20]).all()
    np.testing.assert_allclose(values[20:], 0, atol=1e-5)
    drive.ego[100:, 1] = 3
    np.testing.assert_allclose(signals_of(drive)["plan_error"][[99, 100, 119, 125]], [0, 3, 3, 0], atol=1e-5)


def test_picks(make_drive):
    assert np.flatnonzero(signals_of(picked("1.15 20")(make_drive()))["pick"]).tolist() == [
        *range(12, 17),
        *range(200, 205),
    ]
    with pytest.raises(ValueError, match=r"Drive.meta\['picks'\]: must be seconds"):
        signals_of(picked("now")(make_drive()))


def test_a_column_that_no_sensor_filled_is_lacking(make_drive):
    drive = make_drive()
    drive.ego[:, 4:] = np.nan
    bare = replace(drive, route=None, objects=None, plan=None, takeover=None, engaged=None)
    assert set(signals_of(bare)) == {"speed"}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 70))
def test_the_nearest_piece_is_found(seed, points):
    rng = np.random.default_rng(seed)
    line = np.cumsum(rng.normal(0, 3, (points, 2)), axis=0)
    xy = rng.normal(0, 20, (40, 2))
    along, left, piece = place_on(line, xy)
    step = np.diff(line, axis=0)
    f = np.clip(((xy[:, None] - line[:-1]) * step).sum(-1) / (step**2).sum(-1), 0, 1)
    far = np.hypot(*np.moveaxis(xy[:, None] - line[:-1] - f[..., None] * step, -1, 0))
    np.testing.assert_allclose(far[np.arange(40), piece], far.min(axis=1), rtol=1e-12)
    known = np.isfinite(left)
    np.testing.assert_allclose(np.abs(left[known]), far.min(axis=1)[known], rtol=1e-9)
    start = np.concatenate([[0], np.cumsum(np.hypot(*step.T))])
    np.testing.assert_allclose(along, start[piece] + f[np.arange(40), piece] * np.hypot(*step.T)[piece], rtol=1e-9)


def test_novelty_is_the_distance_to_what_was_sent(make_drive, tmp_path):
    drive = make_drive()
    quiet = embedding(signals_of(drive))
    assert quiet.shape == (300, DIMS)
    sent = Sent()
    assert np.isinf(sent.distance(quiet)).all()
    sent.add(quiet)
    assert len(sent.kept) == 1
    assert sent.distance(quiet).max() < 0.15
    drive.ego[100:, 3] = 0
    assert sent.distance(embedding(signals_of(drive)))[100:].min() > 0.5
    sent.add(embedding(signals_of(drive)))
    sent.save(tmp_path / "sent.safetensors")
    np.testing.assert_array_equal(Sent.load(tmp_path / "sent.safetensors").kept, sent.kept)
    sent.add(np.random.default_rng(0).uniform(-1, 1, (2 * MOST, DIMS)).astype(np.float32))
    assert len(sent.kept) == MOST


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    arrays.write(tmp_path / "b", {"embeddings": np.zeros((2, 3))})
    arrays.write(tmp_path / "c", {"kept": np.zeros((2, DIMS), np.float32)})
    for name in ("a", "b", "c", "none"):
        with pytest.raises(ValueError, match=f"{tmp_path / name}: "):
            Sent.load(tmp_path / name)


def test_nearest_is_the_least_distance():
    rng = np.random.default_rng(0)
    x, reference = rng.normal(0, 1, (50, 5)).astype(np.float32), rng.normal(0, 1, (5, 33)).astype(np.float32)
    expected = np.linalg.norm(x[:, :, None] - reference, axis=1).min(axis=1)
    np.testing.assert_allclose(nearest(x, reference), expected, rtol=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_a_car_fires_what_its_stored_drive_does(seed):
    """The whole library, from a car's last seconds to its firings, against the stored drive at once."""
    drive, campaigns = random_drive(seed), load_campaigns(LIBRARY)
    context = SignalContext(
        STOP_LINES, Sent(embedding(signals_of(random_drive(seed + 1), SignalContext(STOP_LINES)))[:20])
    )
    names = list(SIGNALS)
    watch = Watch(campaigns, names)
    online = [
        f for i in range(len(drive.t)) for f in watch.push(float(drive.t[i]), latest(part(drive, i), names, context))
    ]
    assert len(online) > 5
    assert online == firings(campaigns, drive, context)
