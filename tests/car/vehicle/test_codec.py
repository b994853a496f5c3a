"""The action codec: its range, its accuracy, and its symmetry between left and right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.vehicle.codec import controls, decode, encode, fit_codebook, mirror, soft_targets


def drives(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth plans (n, 8, 3) within a road car's limits, integrated at 100 Hz, and their speeds now."""
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.0, 18.0, n)
    speed, state = v.copy(), np.zeros((n, 3))
    a, a_end = rng.uniform(-5.0, 2.0, (2, n))
    lateral = np.maximum(v, 4.0) ** 2
    c, c_end = np.clip(rng.uniform(-3.0, 3.0, (2, n)) / lateral, -0.15, 0.15)
    out = np.zeros((n, 8, 3))
    for i in range(400):
        u = i / 400
        v1 = np.maximum(v + 0.01 * (a + u * (a_end - a)), 0.0)
        turn = (c + u * (c_end - c)) * 0.005 * (v + v1)
        state[:, 0] += 0.005 * (v + v1) * np.cos(state[:, 2] + turn / 2)
        state[:, 1] += 0.005 * (v + v1) * np.sin(state[:, 2] + turn / 2)
        state[:, 2] += turn
        v = v1
        if i % 50 == 49:
            out[:, i // 50] = state
    return out, speed


FUTURE, SPEED = drives(3000, 0)
BOOK = fit_codebook(FUTURE, SPEED, 128, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_round_trip_stays_close(seed):
    future, speed = drives(40, seed)
    back = decode(encode(future, BOOK, speed), BOOK, speed)
    away = np.hypot(*np.moveaxis(back[..., :2] - future[..., :2], -1, 0))
    assert away.mean() < 0.2
    assert away[:, -1].max() < 1.5, "errors must not add up over the horizon"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_codes_survive_decoding(seed):
    """A plan made of codes is encoded as those codes, or as others that lead to the same places."""
    rng = np.random.default_rng(seed)
    tokens, speed = rng.integers(0, len(BOOK), (16, 8)), rng.uniform(3.0, 15.0, 16)
    plan = decode(tokens, BOOK, speed)
    assert round_trip_error(plan, BOOK, speed) < 0.4


def test_a_round_trip_loses_little():
    assert 0.0 < round_trip_error(FUTURE, BOOK, SPEED) < 0.12


def round_trip_error(future, book, speed):
    """Mean distance (m) between the points of plans and of their reconstructions."""
    back = decode(encode(future, book, speed), book, speed)
    return np.linalg.norm(back[..., :2] - future[..., :2], axis=-1).mean()


def test_standing_car_stays_at_any_curvature():
    turning = np.flatnonzero(BOOK[:, 0] <= 0)
    points = decode(np.repeat(turning[:, None], 8, 1), BOOK, np.zeros(len(turning)))
    assert (points == 0).all()
    assert (encode(np.zeros((1, 8, 3)), BOOK, np.zeros(1)) == 0).all()


def test_speed_never_turns_negative():
    brake = int(np.flatnonzero((BOOK == [-6.0, 0.0]).all(1))[0])
    x = decode(np.full((1, 8), brake), BOOK, np.array([5.0]))[0, :, 0]
    assert (np.diff(x) >= 0).all()
    assert x[-1] == pytest.approx(5.0**2 / 12.0, abs=1e-5)


def test_exact_arc():
    code = int(np.flatnonzero(np.isclose(BOOK, [0.0, 0.1]).all(1))[0])
    x, y, yaw = decode(np.full((1, 8), code), BOOK, np.array([8.0]))[0, -1]
    assert yaw == pytest.approx(3.2, abs=1e-5)
    assert (x, y) == pytest.approx((10 * np.sin(3.2), 10 * (1 - np.cos(3.2))), abs=2e-4)


def test_book_holds_what_driving_needs_and_is_deterministic():
    assert (BOOK[0] == 0).all()
    for wanted in ((-6.0, 0.0), (0.0, 0.2), (0.0, -0.2), (1.0, 0.0)):
        assert np.isclose(BOOK, wanted).all(1).any(), wanted
    assert len(np.unique(BOOK, axis=0)) == 128
    assert np.array_equal(BOOK, fit_codebook(FUTURE, SPEED, 128, 0))
    assert len(fit_codebook(FUTURE[:0], SPEED[:0], 64)) == 64


def test_mirrored_plan_is_the_mirrored_tokens():
    twin = mirror(BOOK)
    assert (twin[twin] == np.arange(128)).all()
    flipped = FUTURE[:500] * [1.0, -1.0, -1.0]
    tokens, other = encode(FUTURE[:500], BOOK, SPEED[:500]), encode(flipped, BOOK, SPEED[:500])
    same = decode(twin[tokens], BOOK, SPEED[:500])
    assert np.abs(same - decode(tokens, BOOK, SPEED[:500]) * [1.0, -1.0, -1.0]).max() < 1e-4
    assert (other == twin[tokens]).mean() > 0.99


def test_soft_targets_peak_where_encode_points():
    tokens, soft = encode(FUTURE[:200], BOOK, SPEED[:200]), soft_targets(FUTURE[:200], BOOK, SPEED[:200], 0.15)
    assert soft.astype(np.float64).sum(-1) == pytest.approx(1.0, abs=0.01)
    assert (np.take_along_axis(soft, tokens[..., None], -1)[..., 0] >= soft.max(-1)).all()
    standing = soft_targets(np.zeros((1, 8, 3)), BOOK, np.zeros(1), 0.15)[0, 0]
    braking = BOOK[:, 0] <= 0
    assert standing[braking].min() > 100 * standing[BOOK[:, 0] > 1.9].max(), "to a standing car all braking is one"


def test_controls_of_constant_turn():
    future, speed = decode(np.full((1, 8), 0), BOOK, np.array([10.0])), np.array([10.0])
    assert controls(future, speed) == pytest.approx(0.0, abs=1e-5)


def test_foreign_codes_and_books_are_refused():
    with pytest.raises(ValueError, match=r"tokens: codes must lie in 0\.\.127"):
        decode(np.full((1, 8), 128), BOOK, np.zeros(1))
    with pytest.raises(ValueError, match="not symmetric"):
        mirror(np.array([[0.0, 0.0], [1.0, 0.1]]))
    with pytest.raises(ValueError, match="even number"):
        fit_codebook(FUTURE, SPEED, 31)
