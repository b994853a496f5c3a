"""The filters of NAVSIM's comfort metric, and its bounds one by one."""

import numpy as np
import pytest

from drivefoundry.judge.scores.comfort import SAMPLES, comfort, extended_comfort, savgol

T = np.arange(SAMPLES) * 0.1
SWAY = (-1.0) ** np.arange(SAMPLES)


def motion(lon=0.0, speed=8.0, yaw_rate=0.0, yaw=0.0):
    out = np.zeros((1, 1, SAMPLES, 6))
    out[..., 2], out[..., 3], out[..., 4], out[..., 5] = yaw, speed, lon, yaw_rate
    return out


def comfortable(**what) -> bool:
    return comfort(motion(**what))[0, 0, 0] == 1


@pytest.mark.parametrize(("window", "order"), [(41, 2), (15, 2), (5, 2), (5, 3)])
def test_filters_leave_polynomials_and_give_their_slope(window, order):
    x = 1 + 2 * T - 0.5 * T**order
    assert savgol(SAMPLES, window, order, 0) @ x == pytest.approx(x)
    assert savgol(SAMPLES, window, order, 1) @ x == pytest.approx(2 - 0.5 * order * T ** (order - 1))


def test_filter_against_worked_coefficients():
    # Savitzky and Golay 1964: the quadratic over 5 points, in the middle.
    middle = savgol(9, 5, 2, 0)[4, 2:7]
    assert middle == pytest.approx(np.array([-3, 12, 17, 12, -3]) / 35)
    # SciPy 1.17: savgol_coeffs(8, 2), an even window.
    assert savgol(12, 8, 2, 0)[5, 2:10] == pytest.approx(
        [-0.09375, 0.09375, 0.21875, 0.28125, 0.28125, 0.21875, 0.09375, -0.09375]
    )


def swerve(accel):
    """Yaw under constant yaw acceleration for 0.4 s, then at constant rate."""
    return np.where(T < 0.4, 0.5 * accel * T**2, accel * 0.4 * (T - 0.2))


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"lon": 2.39}, {"lon": 2.41}),
        ({"lon": -4.04}, {"lon": -4.06}),
        ({"speed": 8.0, "yaw_rate": 4.88 / 8}, {"speed": 8.0, "yaw_rate": 4.90 / 8}),
        # The longest jerk that the bounds of the acceleration leave room for is that of a parabola.
        ({"lon": 0.98 * (T - 2) ** 2 - 2.1}, {"lon": 1.09 * (T - 2) ** 2 - 2.1}),
        # Swaying left and right: lateral acceleration averages out, its magnitude does not.
        ({"yaw_rate": 2.0 / 8 * (T - 2) ** 2 * SWAY}, {"yaw_rate": 2.2 / 8 * (T - 2) ** 2 * SWAY}),
        ({"yaw": 0.94 * T}, {"yaw": 0.96 * T}),
        ({"yaw": swerve(1.2)}, {"yaw": swerve(2.3)}),
    ],
    ids=["throttle", "brake", "lateral", "lon jerk", "jerk", "yaw rate", "yaw acceleration"],
)
def test_bounds(inside, outside):
    assert comfortable(**inside)
    assert not comfortable(**outside)


def test_history_may_wrap_around_in_yaw():
    past = motion(yaw=np.pi - 0.001)[:, 0, :15]
    now = motion(yaw=-np.pi + 0.001)
    assert comfort(now, past, np.array([15])).tolist() == [[[1, 1]]]


@pytest.mark.parametrize(("column", "fine", "bad"), [(4, 0.6, 0.8), (2, 0.09, 0.11)])
def test_extended_comfort_bounds(column, fine, bad):
    def differs(by):
        other = motion()
        other[..., column] += by * (T if column == 2 else 1.0)  # a yaw that grows: a yaw rate
        return extended_comfort(motion(), other)[0, 0]

    assert (differs(fine), differs(bad)) == (1, 0)
