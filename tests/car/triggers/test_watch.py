"""Rules fire at the same samples for any division into blocks, and as a plain, slow implementation says."""

from __future__ import annotations

import math
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.triggers import Firing, Watch, campaign
from drivefoundry_car.triggers.rules import parse
from drivefoundry_car.triggers.watch import Rules, program

SIGNALS = {"speed": (1, -1, 0), "gap": (1, 0, 0), "engaged": "flag"}


def meaning(node, t, rows, known):
    """Value of a rule at each sample, None where unknown; known: cache of values."""
    if node not in known:
        args = [meaning(a, t, rows, known) for a in node.args]
        known[node] = [value(node, i, t, rows, args) for i in range(len(t))]
    return known[node]


def value(node, i, t, rows, args):
    """Value of a node at sample i, recomputed from its arguments at samples 0 .. i."""
    op = node.op

    def at(k, arg=0):
        return args[arg][k]

    if op == "number":
        return node.value
    if op == "signal":
        x = rows[node.signal][i]
        return None if math.isnan(x) else bool(x) if node.type == "flag" else float(x)
    if op in ("abs", "minus"):
        x = at(i)
        return None if x is None else abs(x) if op == "abs" else -x
    if op in ("+", "-", "*", "/"):
        return arithmetic(op, at(i), at(i, 1))
    if op in ("<", "<=", ">", ">="):
        a, b = at(i), at(i, 1)
        return None if a is None or b is None else {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
    if op == "not":
        return None if at(i) is None else not at(i)
    if op in ("and", "or"):
        both = (at(i), at(i, 1))
        settles = op == "or"
        return settles if settles in both else None if None in both else not settles
    if op == "until":
        on = [k for k in range(i + 1) if at(k) is True and at(k, 1) is not True]
        off = [k for k in range(i + 1) if at(k, 1) is True]
        if on and (not off or on[-1] > off[-1]):
            return True
        return False if at(i, 1) is True else at(i)
    return remembered(node, i, t, [at(k) for k in range(i + 1)])


def arithmetic(op, a, b):
    if a is None or b is None:
        return None
    with np.errstate(all="ignore"):
        x, y = np.float64(a), np.float64(b)
        out = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "/": lambda: x / y}[op]()
    return None if np.isnan(out) else float(out)


def remembered(node, i, t, past):
    """for, edges, windows and counts over samples 0 .. i."""
    op, now, before = node.op, past[i], past[i - 1] if i else False
    inside = [k for k in range(i + 1) if t[k] >= t[i] - node.value - 1e-6]
    if op == "count":
        return float(sum(past[k] is True and (k == 0 or past[k - 1] is not True) for k in inside))
    if op in ("rising", "falling", "for"):
        if now is None:
            return None
        if op != "for":
            return now is True and before is not True if op == "rising" else now is False and before is True
        run = i
        while run and past[run] is True and past[run - 1] is True:
            run -= 1
        return now is True and bool(t[i] - t[run] >= node.value - 1e-6)
    known = [past[k] for k in inside if past[k] is not None]
    if not known or (op == "delta" and now is None):
        return None
    if op == "mean":
        weight = [min(t[k] - t[k - 1], node.value) if k else 0.0 for k in inside if past[k] is not None]
        total = [arithmetic("*", x, w) for x, w in zip(known, weight, strict=True)]
        return None if None in total else arithmetic("/", sum(total), sum(weight))
    if op == "delta":
        return arithmetic("-", now, known[0])
    return arithmetic("-", max(known), min(known)) if op == "range" else {"max": max, "min": min}[op](known)


@st.composite
def quantities(draw, name, depth):
    """Text of a quantity in the unit of the signal."""
    kind = draw(st.sampled_from(["signal", "signal", "fold", "sum", "abs", "scaled"])) if depth else "signal"
    if kind == "signal":
        return name
    inner = draw(quantities(name, depth - 1))
    if kind == "fold":
        return f"{draw(st.sampled_from(['max', 'min', 'mean', 'range', 'delta']))}({inner}) over {draw(times())}"
    if kind == "sum":
        return f"({inner} {draw(st.sampled_from('+-'))} {draw(quantities(name, depth - 1))})"
    return f"abs({inner})" if kind == "abs" else f"{inner} / {draw(st.sampled_from([2, 4]))}"


def times():
    return st.sampled_from(["250 ms", "0.5 s", "1 s", "2.25 s"])


@st.composite
def conditions(draw, depth=3):
    kind = (
        draw(st.sampled_from(["compare", "and", "or", "not", "for", "edge", "until", "count"])) if depth else "compare"
    )
    if kind == "compare":
        if draw(st.integers(0, 4)) == 0:
            return "engaged"
        name, unit = draw(st.sampled_from([("speed", "m/s"), ("gap", "m")]))
        sign, bound = draw(st.sampled_from(["<", "<=", ">", ">="])), draw(st.integers(0, 8)) / 2
        return f"{draw(quantities(name, 2))} {sign} {bound} {unit}"
    a = draw(conditions(depth=depth - 1))
    if kind in ("and", "or", "until"):
        return f"({a}) {kind} ({draw(conditions(depth=depth - 1))})"
    if kind == "count":
        return f"count({a}) in {draw(times())} >= {draw(st.integers(1, 3))}"
    if kind == "for":
        return f"({a}) for {draw(times())}"
    return f"not ({a})" if kind == "not" else f"({a}) {draw(st.sampled_from(['rising', 'falling']))}"


@st.composite
def drives(draw, longest=40):
    """Times on a clock with gaps, and samples, some unknown, some infinite; multiples of 0.5, so that sums are
    exact."""
    steps = draw(st.integers(1, longest))
    gaps = draw(st.lists(st.sampled_from([1, 3, 8, 16, 40, 200]), min_size=steps, max_size=steps))
    sample = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -1.0, math.nan, math.inf])
    speed, gap = (draw(st.lists(sample, min_size=steps, max_size=steps)) for _ in range(2))
    flag = draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, math.nan]), min_size=steps, max_size=steps))
    return np.cumsum(gaps) / 64, np.array([speed, gap, flag])


@settings(max_examples=150)
@given(st.lists(conditions(), min_size=1, max_size=3), drives(), st.lists(st.integers(1, 9), max_size=12))
def test_online_stored_and_naive_agree(texts, drive, cuts):
    t, rows = drive
    trees = [parse(text, SIGNALS) for text in texts]
    cooldown = [0.0, 1.0, 3.0][: len(trees)]

    def new():
        return Rules(program(trees, list(SIGNALS)), cooldown)

    stored, truth = new().run(t, rows, truth=True)
    stored = sorted(map(tuple, stored.tolist()))
    online = new()
    assert sorted((r, i) for i in range(len(t)) for r in online.push(t[i], rows[:, i])) == stored
    blocks, first, found = new(), 0, []
    for n in [*cuts, len(t)]:
        part, _ = blocks.run(t[first : first + n], rows[:, first : first + n])
        found += [(r, first + i) for r, i in part.tolist()]
        first = min(first + n, len(t))
    assert sorted(found) == stored
    named = dict(zip(SIGNALS, rows, strict=True))
    naive = np.array([[v is True for v in meaning(tree, t, named, {})] for tree in trees])
    np.testing.assert_array_equal(truth, naive)
    for r, wait in enumerate(cooldown):
        last = -math.inf
        for i in np.flatnonzero(naive[r] & ~np.concatenate([[False], naive[r][:-1]])).tolist():
            if t[i] - last >= wait:
                last = t[i]
                assert (r, i) in stored
                stored.remove((r, i))
    assert stored == []


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(60, 500))
def test_long_drives_in_blocks_agree(seed, longest):
    """Longer than a block of 64 samples, with growing windows, on values that round."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.exponential(0.05, 2000) + 0.01)
    rows = np.cumsum(rng.normal(0, 0.5, (3, 2000)), axis=1)
    rows[:, rng.random(2000) < 0.1] = np.nan
    rows[2] = rng.random(2000) < 0.5
    texts = [
        "mean(speed) over 30 s > 0 m/s",
        "max(gap) over 9 s - min(gap) over 20 s < 4 m and engaged",
        "count(engaged) in 15 s > 60 until delta(speed) over 3 s > 0 m/s",
        "range(speed) over 0.5 s > 1 m/s for 0.2 s",
    ]
    trees = [parse(text, SIGNALS) for text in texts]
    whole, truth = Rules(program(trees, list(SIGNALS)), [0, 0, 5, 1]).run(t, rows, truth=True)
    assert truth.any()
    assert not truth.all()
    blocks, found = Rules(program(trees, list(SIGNALS)), [0, 0, 5, 1]), []
    edges = [0, *sorted(rng.integers(0, 2000, 2000 // longest).tolist()), 2000]
    for a, b in pairwise(edges):
        found += [(r, a + i) for r, i in blocks.run(t[a:b], rows[:, a:b])[0].tolist()]
    assert sorted(found) == sorted(map(tuple, whole.tolist()))


def test_memory_is_bounded_by_the_windows():
    rules = Rules(program([parse("max(speed) over 1 s > 5 m/s", SIGNALS)], list(SIGNALS)), [0.0])
    t = np.arange(5000) * 1e-3  # 1 kHz: the window keeps the last 101 samples, 0.1 s, of a second
    speed = np.where(np.arange(5000) % 1000 == 0, 9.0, 0.0)
    _, truth = rules.run(t, np.array([speed, speed, speed]), truth=True)
    assert truth.sum() == 5 * 101


def test_equal_parts_are_computed_once():
    text = "max(speed) over 2 s > 3 m/s and range(speed) over 2 s > 1 m/s"
    made = program([parse(text, SIGNALS), parse(f"engaged or ({text})", SIGNALS)], list(SIGNALS))
    # speed, max, 3, >, min, -, 1, >, and; engaged, or
    assert len(made.steps) == 11


def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    library = sys.modules["drivefoundry_car.triggers.watch.library"]
    for name in ("_kernels.so", *library.SOURCES):
        shutil.copy(library.HERE / name, tmp_path)
    (tmp_path / "rules.h").write_text("// another\n")
    monkeypatch.setattr(library, "HERE", tmp_path)
    with pytest.raises(
        ImportError, match="built from different sources than those beside it; build it with `pip install"
    ):
        library.library.__wrapped__()
    (tmp_path / "_kernels.so").unlink()
    with pytest.raises(ImportError, match="the rule kernels are not built"):
        library.library.__wrapped__()


CAMPAIGNS = [
    campaign("fast", {"rule": "speed > 5 m/s", "priority": 1, "cooldown_s": 1.0}),
    campaign("faster", {"rule": "speed > 5 m/s for 0 s", "priority": 2}),
    campaign("near", {"rule": "gap < 5 m", "priority": 3}),
    campaign("some", {"pick": "random", "share": 0.1, "priority": 0}),
]


def test_watch_names_what_fires_and_what_cannot():
    watch = Watch(CAMPAIGNS, ["speed", "engaged"])
    assert watch.lacking == {"near": ("gap",)}
    assert watch.push(0.0, [6.0, 1.0]) == [Firing("faster", 0.0, 2), Firing("fast", 0.0, 1)]
    assert watch.push(0.1, [6.0, 1.0]) == []
    assert watch.push(0.2, [np.nan, 1.0]) == []
    assert watch.push(0.3, np.array([6.0, 1.0])) == [Firing("faster", 0.3, 2)]
    with pytest.raises(ValueError, match="t: must increase"):
        watch.push(0.3, [6.0, 1.0])
    with pytest.raises(ValueError, match="must be one per signal \\(2\\)"):
        watch.push(0.4, [6.0])
    watch.reset()
    assert len(watch.push(0.0, [6.0, 1.0])) == 2
    t = np.array([1.0, 2.0, 3.0])
    assert [f.t for f in watch.run(t, np.array([[0, 6, 0], [1, 1, 1]]))] == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"values: must have shape \(2, 3\), got \(1, 3\)"):
        watch.run(t + 3, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="t: must increase"):
        watch.run(t, np.zeros((2, 3)))
    assert Watch([], ["speed"]).push(0.0, [1.0]) == []
