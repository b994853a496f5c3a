"""Cost of watching triggers: 100 rules over 20 Hz signals, online and over stored drives; prints one line of JSON.

    python -m benchmarks.triggers [--quick]

The rules are the library's and variations with other numbers (and so other windows); the drives are an hour in pieces
of ten minutes, with 12 road users, a route with a limit, lights, plans and a set of 256 embeddings already sent. One
core, CPU seconds, best of several. `online`: `Watch.push`, one sample per call from Python. `stored`: `firings`, from
the Drive to the list, including the derivation of all signals (`signals`) and the rules (`rules`).
`online_with_signals`: also derives each sample's signals from the last seconds with numpy, as a car does. `tick`:
everything that `Collector.tick` does for a moment without pictures, including the recorder, median over a minute.
Checks that online, collector and stored evaluation fire identically. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time

import numpy as np

from benchmarks.figures import best, report
from drivefoundry_car.log import Drive, Objects, Plans, cut
from drivefoundry_car.recording.recent import moments
from drivefoundry_car.triggers import LIBRARY, Campaign, Watch, campaign, firings, load_campaigns
from drivefoundry_car.triggers.novelty import DIMS, Sent
from drivefoundry_car.triggers.rules import cost
from drivefoundry_car.triggers.signals import LOOKBACK_S, SignalContext, SignalSource, latest, signals_of
from drivefoundry_car.upload.collector import Collector

RULES, HZ, OBJECTS = 100, 20, 12
ONLINE, STORED = 1_000, 20_000
"""Targets: multiples of real time, on one core."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.triggers", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a shorter drive, fewer repetitions")
    asked = parser.parse_args()
    pieces, minutes, times = (2, 1, 2) if asked.quick else (6, 10, 5)
    drives = [drive(seed, minutes * 60) for seed in range(pieces)]
    context = SignalContext(stop_lines(), Sent(np.random.default_rng(0).uniform(-1, 1, (256, DIMS)).astype(np.float32)))
    figures = measure(campaigns(), drives, context, times)
    differs = figures.pop("fires_otherwise")
    targets = {
        "online_x_realtime": (figures["online_x_realtime"], ONLINE, figures["online_x_realtime"] >= ONLINE),
        "stored_x_realtime": (figures["stored_x_realtime"], STORED, figures["stored_x_realtime"] >= STORED),
        "fires_otherwise": (differs, 0.0, differs == 0.0),
    }
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def measure(rules: list[Campaign], drives: list[Drive], context: SignalContext, times: int) -> dict[str, float]:
    """Each way's multiple of real time, and CPU microseconds per sample of its parts."""
    seconds = sum(len(d.t) for d in drives) / HZ
    samples = seconds * HZ
    values = [signals_of(d, context) for d in drives]
    names = list(values[0])
    rows = [np.array([v[n] for n in names], np.float64) for v in values]
    watch = Watch(rules, names)
    assert not watch.lacking
    found = [watch_all(watch, d.t, row) for d, row in zip(drives, rows, strict=True)]
    stored = [firings(rules, d, context) for d in drives]
    online = best(lambda: [watch_all(watch, d.t, row) for d, row in zip(drives, rows, strict=True)], times)
    whole = best(lambda: [firings(rules, d, context) for d in drives], times)
    signals = best(lambda: [signals_of(d, context) for d in drives], times)

    def alone() -> None:
        for d, row in zip(drives, rows, strict=True):
            watch.reset()
            watch.run(d.t, row)

    ruled = best(alone, times)
    last = cut(drives[0], 30.0, 30.0 + LOOKBACK_S + 0.1)
    derive = best(lambda: [latest(last, names, context) for _ in range(50)], times) / 50
    minute = cut(drives[0], 0.0, 60.0)
    tick, ticked = collected(rules, minute, names, context)
    found, stored = [*found, ticked], [*stored, firings(rules, minute, context)]
    return {
        "rules": len(rules),
        "operations": watch.rules.operations,
        "cost": sum(cost(c.tree) for c in rules if c.tree),
        "signals": len(names),
        "objects": OBJECTS,
        "drive_s": seconds,
        "firings": sum(map(len, stored[:-1])),
        "tick_us": 1e6 * tick,
        "online_x_realtime": seconds / online,
        "online_us_a_sample": 1e6 * online / samples,
        "online_with_signals_x_realtime": 1 / HZ / (online / samples + derive),
        "derive_online_us_a_sample": 1e6 * derive,
        "stored_x_realtime": seconds / whole,
        "rules_x_realtime": seconds / ruled,
        "signals_x_realtime": seconds / signals,
        "stored_us_a_sample": 1e6 * whole / samples,
        "rules_us_a_sample": 1e6 * ruled / samples,
        "signals_us_a_sample": 1e6 * signals / samples,
        "signals_share_of_stored": signals / whole,
        "fires_otherwise": float(sum(a != b for a, b in zip(found, stored, strict=True))),
    }


def watch_all(watch: Watch, t: np.ndarray, rows: np.ndarray) -> list:
    """Watch a drive, one sample per call."""
    watch.reset()
    found = []
    for at, row in zip(t.tolist(), np.ascontiguousarray(rows.T), strict=True):
        if fired := watch.push(at, row):
            found += fired
    return found


def collected(rules: list[Campaign], drive: Drive, names: list[str], context: SignalContext) -> tuple[float, list]:
    """CPU seconds of the median tick, in the thread that ticks, and all firings."""
    took, found = [], []
    with tempfile.TemporaryDirectory(prefix="drivefoundry-triggers-") as spool:
        car = Collector(spool, {}, rules, drive.meta, signals=SignalSource(names, context), ego_size=drive.ego_size)
        for now in moments(drive):
            begun = time.thread_time()
            found += car.tick(now)
            took.append(time.thread_time() - begun)
            car.recorder.settle()
        car.close()
    return float(np.median(took)), found


def campaigns() -> list[Campaign]:
    """RULES distinct rules: the library's, then copies with all their numbers scaled."""
    library = load_campaigns(LIBRARY)
    made = {c.rule: c for c in library}
    for i in range(RULES):
        c, scale = library[i % len(library)], 1.1 + 0.1 * (i // len(library))
        text = re.sub(r"(?<![\^\w.])\d+(\.\d+)?", lambda m, by=scale: f"{float(m[0]) * by:.3f}", c.rule)
        entry = {"rule": text, "priority": c.priority, "cooldown_s": c.cooldown_s}
        made.setdefault(text, campaign(f"{c.name}_{scale:.1f}", entry))
    chosen = list(made.values())[:RULES]
    assert len(chosen) == RULES
    return chosen


def stop_lines() -> np.ndarray:
    """A light every 300 m of the road along y = 0."""
    x = 300.0 * np.arange(1, 21)
    return np.stack([x, np.full(20, -4.0), x, np.full(20, 4.0)], 1)


def drive(seed: int, seconds: float) -> Drive:
    """A car in traffic on a straight road that speeds up, brakes, drifts and meets all kinds of road users."""
    rng = np.random.default_rng(seed)
    steps = int(seconds * HZ)
    t = np.arange(steps) / HZ
    slow = smooth(rng, steps, 200)
    ego = np.zeros((steps, 7))
    ego[:, 3] = np.clip(9 + 5 * slow, 0, None)
    ego[:, 0] = np.cumsum(ego[:, 3]) / HZ
    ego[:, 1], ego[:, 2] = 0.4 * smooth(rng, steps, 60), 0.05 * smooth(rng, steps, 60)
    ego[:, 4] = np.gradient(ego[:, 3], t) + 0.3 * rng.normal(size=steps)
    ego[:, 5], ego[:, 6] = 0.1 * smooth(rng, steps, 40), 0.5 * smooth(rng, steps, 30)
    states = np.zeros((OBJECTS, steps, 4), np.float32)
    for k in range(OBJECTS):
        states[k, :, 0] = ego[:, 0] + 30 * smooth(rng, steps, 300) + 5
        states[k, :, 1] = 5 * smooth(rng, steps, 100)
        states[k, :, 2] = np.pi * (k % 3 == 0) + 0.3 * smooth(rng, steps, 100)
        states[k, :, 3] = np.abs(8 * smooth(rng, steps, 200))
    size = np.where(np.arange(OBJECTS)[:, None] % 4 < 2, [[4.6, 1.9, 1.6]], [[0.8, 0.6, 1.8]]).astype(np.float32)
    valid = rng.random((OBJECTS, steps)) < 0.95
    objects = Objects(np.arange(OBJECTS), np.arange(OBJECTS) % 4, size, states, valid)
    decided = t[:: HZ // 2]
    points = np.zeros((len(decided), 8, 3), np.float32)
    points[..., 0] = ego[:: HZ // 2, 3:4] * 0.5 * np.arange(1, 9)
    said = [""] * len(decided)
    other = points + rng.normal(0, 0.5, points.shape).astype(np.float32)
    state = np.repeat(rng.integers(1, 4, (20, steps // 200 + 1)), 200, axis=1)[:, :steps].astype(np.uint8)
    x = np.arange(-10.0, ego[-1, 0] + 100, 5.0)
    return Drive(
        {"picks": "20 40"}, t, ego, route=np.stack([x, np.zeros(len(x)), np.full(len(x), 13.9)], 1), objects=objects,
        signal_id=np.arange(20), signal_state=state, engaged=slow > -0.5, takeover=slow < -1.2,
        plan=Plans(decided, points, said), correction=Plans(decided, other, said),
    )  # fmt: skip


def smooth(rng: np.random.Generator, steps: int, width: int) -> np.ndarray:
    """Noise (steps,) of variance 1 that changes within `width` samples."""
    knots = np.arange(0, steps + width, width)
    noise = np.interp(np.arange(steps), knots, rng.normal(size=len(knots)))
    return noise / max(float(noise.std()), 1e-9)


if __name__ == "__main__":
    sys.exit(main())
