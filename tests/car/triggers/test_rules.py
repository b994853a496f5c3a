"""Rules are parsed with units, refused with a column, and hold exactly when they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.triggers.rules import _WORDS, MAX_COST, UNITS, cost, parse, signals_in
from drivefoundry_car.triggers.signals import SIGNALS
from drivefoundry_car.triggers.watch import Rules, program

T = np.arange(20) * 0.1


def holds(tree, t, values):
    names = sorted(values)
    rows = np.array([np.broadcast_to(values[n], len(t)) for n in names], np.float64)
    return Rules(program([tree], names), [0.0]).run(t, rows.reshape(len(names), len(t)), truth=True)[1][0]


def when(rule, t=T, **values):
    return np.flatnonzero(holds(parse(rule, SIGNALS), t, values)).tolist()


def test_units_are_converted():
    speed = np.linspace(0, 19, 20)
    assert when("speed >= 36 km/h", speed=speed) == list(range(10, 20))
    assert when("yaw_rate > 90 deg/s", yaw_rate=np.linspace(0, 1.9, 20)) == [16, 17, 18, 19]
    assert when("speed / 2 s > 2 m/s^2", speed=speed) == list(range(5, 20))
    assert when("speed * 500 ms < 1 m", speed=speed) == [0, 1]


def test_for_counts_from_the_first_sample_that_held():
    accel = np.full(20, 0.0)
    accel[5:10] = -5
    accel[12:14] = -5
    assert when("accel < -4 m/s^2 for 0.3 s", accel=accel) == [8, 9]
    assert when("accel < -4 m/s^2 for 0 s", accel=accel) == [5, 6, 7, 8, 9, 12, 13]


def test_edges_words_and_parentheses():
    on = np.zeros(20, bool)
    on[4:7] = True
    speed = np.full(20, 5.0)
    assert when("takeover rising", takeover=on) == [4]
    assert when("takeover falling", takeover=on) == [7]
    assert when("not not takeover", takeover=on) == [4, 5, 6]
    assert when("takeover and not engaged", takeover=on, engaged=np.arange(20) < 5) == [5, 6]
    assert when("takeover or speed > 6 m/s and speed < 1 m/s", takeover=on, speed=speed) == [4, 5, 6]
    assert when("(takeover or speed > 4 m/s) and speed < 1 m/s", takeover=on, speed=speed) == []
    assert when("abs(speed - 7 m/s) - -1 m/s >= 3 m/s", speed=speed) == list(range(20))


def test_the_unknown_never_fires():
    speed = np.full(20, np.nan)
    speed[3] = 1
    assert when("speed > 0 m/s", speed=speed) == [3]
    assert when("not speed > 2 m/s", speed=speed) == [3]
    assert when("takeover or speed > 2 m/s", takeover=np.ones(20, bool), speed=speed) == list(range(20))
    assert when("speed > 2 m/s falling", speed=np.where(T < 1, 3.0, np.nan)) == []


def test_hysteresis_holds_between_its_two_bounds():
    speed = np.array([0, 4, 6, 4, 2, 4, 6, 6, np.nan, 4, 2.5, 1, 6, np.nan, 0, 0, 0, 0, 0, 0])
    assert when("speed > 5 m/s until speed < 3 m/s", speed=speed) == [2, 3, 6, 7, 8, 9, 12, 13]
    assert when("not (speed > 5 m/s until speed < 3 m/s)", speed=speed) == [0, 1, 4, 5, 10, 11, *range(14, 20)]
    assert when("speed > 1 m/s until speed > 5 m/s", speed=speed) == [1, 3, 4, 5, 9, 10, 11]  # the end wins


def test_windows_look_back_in_seconds():
    speed = np.zeros(20)
    speed[5], speed[12] = 8, 4
    assert when("max(speed) over 0.3 s > 6 m/s", speed=speed) == [5, 6, 7, 8]
    assert when("min(speed) over 0.1 s > 3 m/s", speed=speed) == []
    assert when("range(speed) over 0.2 s >= 4 m/s", speed=speed) == [5, 6, 7, 12, 13, 14]
    assert when("delta(speed) over 0.2 s < -3 m/s", speed=speed) == [7, 14]
    assert when("mean(speed) over 0.3 s > 1.5 m/s", speed=speed) == [5, 6, 7, 8]
    t = np.concatenate([[0.0, 1.0], 5 + 0.1 * np.arange(18)])  # a clock with gaps
    assert when("max(speed) over 4 s > 6 m/s", t, speed=np.where(t == 1.0, 8, 0)) == [1, 2]
    # Each sample weighs the time since the one before it: (1 * 0.5 + 3 * 1.5) / 2 = 2.5.
    t, speed = np.array([0, 0.5, 2.0]), np.array([9, 1, 3])
    assert when("mean(speed) over 2 s > 2.49 m/s", t, speed=speed) == [2]
    assert when("mean(speed) over 2 s > 2.51 m/s", t, speed=speed) == []


def test_windows_skip_unknown_values():
    speed = np.full(20, np.nan)
    speed[4], speed[6] = 3, 5
    assert when("max(speed) over 0.5 s > 4 m/s", speed=speed) == list(range(6, 12))
    assert when("min(speed) over 0.5 s < 4 m/s", speed=speed) == list(range(4, 10))
    assert when("not max(speed) over 0.5 s > 4 m/s", speed=speed) == [4, 5]
    assert when("delta(speed) over 0.5 s > 1 m/s", speed=speed) == [6]
    assert when("max(gap) over 0.3 s > 100 m", gap=np.where(T == 0.5, np.inf, 1)) == [5, 6, 7, 8]


def test_count_is_of_rising_edges():
    on = np.zeros(20, bool)
    on[[2, 3, 6, 9, 10]] = True
    assert when("count(takeover) in 0.5 s >= 2", takeover=on) == [6, 7, 9, 10, 11]
    assert when("count(takeover) in 0.1 s < 1", takeover=on) == [0, 1, 4, 5, 8, *range(11, 20)]
    assert when("count(takeover) in 60 s > 2 and not takeover", takeover=on) == list(range(11, 20))


def test_a_rules_cost_is_known():
    assert cost(parse("speed > 1 m/s", SIGNALS)) == 3
    assert cost(parse("max(speed) over 2 s > 1 m/s", SIGNALS)) == 204
    assert cost(parse(f"count(takeover) in {MAX_COST / 100 - 1} s > 1", SIGNALS)) <= MAX_COST
    with pytest.raises(ValueError, match="column 1: the rule costs 100,004 operations per sample at worst") as error:
        parse(f"count(takeover) in {MAX_COST / 100} s > 1", SIGNALS)
    assert "more than 100,000; shorten its windows, the longest of which is 1000 s" in str(error.value)


@pytest.mark.parametrize(
    ("rule", "column", "says"),
    [
        ("sped > 3 m/s", 1, "did you mean 'speed'"),
        ("speed > 3", 7, "give the number its unit"),
        ("speed > 30 mph", 12, "unknown unit 'mph'; known are m, km, s, ms, h, rad, deg, g"),
        ("gap < 30 ft and takeover", 10, "unknown unit 'ft'"),
        ("speed > 30 m/sec", 14, "unknown unit 'sec'"),
        ("speed > 30 kmh", 12, "unknown unit 'kmh'"),
        ("speed > 3 m", 7, "a quantity in m/s compared with a quantity in m"),
        ("ttc < 1.5 s and accel", 17, "needs a condition"),
        ("speed > 3 m/s takeover", 15, "left over"),
        ("speed > ", 8, "expected a signal or a number"),
        ("speed + ttc > 3 m", 7, "use one unit"),
        ("(takeover", 10, "expected ')'"),
        ("takeover for 3 m", 14, "needs seconds"),
        ("takeover for speed", 14, "needs a duration"),
        ("abs(takeover)", 1, "not a condition"),
        ("-takeover", 1, "write 'not'"),
        ("speed", 1, "not a condition"),
        ("speed ; 3", 7, "is not allowed"),
        ("__import__('os')", 12, "is not allowed"),
        ("max(speed) > 3 m/s", 12, "expected 'over' and a duration: max(speed) over 2 s"),
        ("max speed over 2 s > 3 m/s", 5, "'max' needs a quantity in parentheses"),
        ("max(takeover) over 2 s > 3", 1, "'max' needs a quantity, not a condition"),
        ("count(speed) in 2 s > 3", 1, "'count' needs a condition, not a quantity in m/s"),
        ("count(takeover) over 2 s > 3", 17, "expected 'in' and a duration"),
        ("count(takeover) in 2 s > 3 s", 24, "a plain number compared with a quantity in s"),
        ("max(speed) over 0 s > 3 m/s", 17, "finite duration > 0 s"),
        ("max(speed) over 1e400 s > 3 m/s", 17, "finite duration > 0 s"),
        ("mean(speed) over 2 m > 3 m/s", 18, "needs seconds"),
        ("speed > 3 m/s until speed", 21, "'until' needs a condition"),
        (" and ".join(["takeover"] * 300), 2601, "more than 400 words"),
        ("(" * 51 + "takeover" + ")" * 51, 51, "levels of parentheses"),
    ],
)
def test_a_bad_rule_is_refused_at_its_column(rule, column, says):
    with pytest.raises(ValueError, match=f"^column {column}: ") as error:
        parse(rule, SIGNALS)
    assert says in str(error.value)


quantities = sorted(n for n, d in SIGNALS.items() if d != "flag")
number = st.floats(0, 1000, allow_nan=False).map(lambda v: f"{v:.3f}")


@st.composite
def comparisons(draw):
    """A comparison as text, and the numpy function that it stands for."""
    name = draw(st.sampled_from(quantities))
    unit = {(0, 0, 0): "", (1, 0, 0): "m", (0, 1, 0): "s", (1, -1, 0): "m/s", (1, -2, 0): "m/s^2", (1, -3, 0): "m/s^3"}
    unit |= {(0, 0, 1): "rad", (0, -1, 1): "rad/s"}
    sign, value = draw(st.sampled_from(["<", ">", "<=", ">="])), draw(number)
    compare = {"<": np.less, ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal}[sign]
    return f"{name} {sign} {value} {unit[SIGNALS[name]]}", lambda x: compare(x[name], float(value)), {name}


@st.composite
def conditions(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        return draw(comparisons())
    word = draw(st.sampled_from(["and", "or", "not"]))
    a, fa, na = draw(conditions(depth=depth - 1))
    if word == "not":
        return f"not ({a})", lambda x: ~fa(x), na
    b, fb, nb = draw(conditions(depth=depth - 1))
    return f"({a}) {word} ({b})", (lambda x: fa(x) & fb(x)) if word == "and" else (lambda x: fa(x) | fb(x)), na | nb


@settings(max_examples=80, deadline=None)
@given(conditions(), st.integers(0, 2**32 - 1))
def test_a_rule_means_what_numpy_means(condition, seed):
    text, meaning, names = condition
    values = {name: np.random.default_rng(seed + i).uniform(0, 1000, 20) for i, name in enumerate(sorted(names))}
    tree = parse(text, SIGNALS)
    assert signals_in(tree) == names
    np.testing.assert_array_equal(holds(tree, T, values), meaning(values))


words = st.sampled_from([*SIGNALS, *UNITS, *_WORDS, *"<>()+-*/^?", "<=", "1.5", "2"])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.lists(words, max_size=12).map(" ".join), st.text(max_size=30)))
def test_any_text_parses_or_is_refused_in_one_line(text):
    tree, refusal = None, "column "
    try:
        tree = parse(text, SIGNALS)
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith("column ")
    if tree is None:
        return
    values = {n: np.ones(20, bool) if SIGNALS[n] == "flag" else np.linspace(-2, 2, 20) for n in signals_in(tree)}
    assert holds(tree, T, values).shape == (20,)
