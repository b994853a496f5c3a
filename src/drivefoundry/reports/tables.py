"""The report's tables of verdicts and other results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from drivefoundry.judge.gate import MARGINS, Verdict, load_verdict
from drivefoundry.judge.release_gates import PREVIOUS, STUDENT, TEACHER
from drivefoundry.judge.scores import VERSIONS, WOSAC
from drivefoundry.judge.stats import Comparison
from drivefoundry.judge.worst import SCORE, worst_scenes
from drivefoundry.ledger import Artefact
from drivefoundry.reports.content import Cell, SceneLink, Table
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.stages.score import ENGINE, WHOLE_CAR, YARDSTICK

Done = Sequence[tuple[int | None, str, Artefact]]
COLUMNS = {
    SCORE: "driving score (CARLA 2.1)", "driving_score_20": "driving score (CARLA 2.0)",
    "epdms": "EPDMS (NAVSIM v2.2, two stages)", "pdms": "PDMS (NAVSIM v1, closed loop)", "collision": "collisions",
    "at_fault_collision": "at fault", "off_road": "off road", "red_light": "red light run",
    "progress": "route completion", "comfort": "comfort",
}  # fmt: skip
OPEN_LOOP = {
    **{f"{key}_{n}s": f"{key.upper()} at {n} s, m" for key in ("ade", "fde") for n in (1, 2, 3, 4)},
    "yaw_rate": "yaw rate error, rad/s",
}
"""Column heads of open-loop errors: average and final displacement error, and yaw rate."""
BASELINES = ("constant velocity", "log replay", "PDM-Closed style", YARDSTICK)
ORDER = (
    "constant velocity",
    TEACHER,
    STUDENT,
    ENGINE,
    WHOLE_CAR,
    PREVIOUS,
    "log replay",
    "PDM-Closed style",
    YARDSTICK,
)


def judge_table(verdict: Verdict, order: Sequence[str]) -> Table:
    """All policies of the last verdict side by side, on the same scenes."""
    names = [n for n in order if n in verdict.summary]
    rows = [[n, *(verdict.summary[n].get(m) for m in COLUMNS)] for n in names]
    note = (
        (
            "Every policy drives the same held-out scenes; mean and 95 % bootstrap interval over scenes. The route "
            "follower reads the simulator's state (privileged), and its progress counts as 1; log replay is what the "
            f"recorded person did, in replayed traffic{_tracking(verdict)}; PDM-Closed style picks the best of 15 "
            "scored proposals, knowing the state all around. A collision counts whoever is at fault. Formulas and "
            "sources: docs/metrics.md."
        )
        + _fewer(verdict, names)
        + _unmapped(verdict, names)
    )
    marked = names.index(verdict.candidate) if verdict.candidate in names else None
    return Table("Closed loop, held-out scenes", ["policy", *COLUMNS.values()], rows, note, marked)


def _fewer(verdict: Verdict, names: Sequence[str]) -> str:
    """A sentence about policies that drove only the first scenes."""
    driven = {n: len(verdict.scores[n][SCORE]) for n in names}
    some = ", ".join(f"{n} {count}" for n, count in driven.items() if count < len(verdict.scenes))
    return f" Only the first scenes were driven by: {some}." if some else ""


def _unmapped(verdict: Verdict, names: Sequence[str]) -> str:
    """A sentence about distances driven on ground that the map does not classify; "" if there are none."""
    shares = {n: verdict.summary[n].get("unmapped_share", (0.0, 0.0, 0.0))[0] for n in names}
    some = ", ".join(f"{n} {100 * share:.1f} %" for n, share in shares.items() if share > 0.0)
    return f" Driven on ground that the map does not classify, not counted as off the road: {some}." if some else ""


def _tracking(verdict: Verdict) -> str:
    """A clause about the simulated car's deviation from the log that it tracks."""
    found = verdict.summary.get("log replay", {})
    if "tracking_max" not in found:
        return ""
    return (
        f" (the simulated car, tracking it, deviates by {found['tracking_mean'][0]:.2f} m on average, and by "
        f"{found['tracking_max'][0]:.2f} m at the worst step of a scene)"
    )


def against_table(verdict: Verdict, order: Sequence[str]) -> Table:
    """The candidate compared with every other policy, scene by scene."""
    rows: list[list[Cell]] = []
    for name in (n for n in order if n in verdict.comparisons):
        for metric, fields in verdict.comparisons[name].items():
            c = Comparison(**fields)
            apart = (c.difference, c.low, c.high)
            rows.append([name, COLUMNS[metric], apart, c.p_superior, c.superior, c.p_non_inferior, c.non_inferior])
    margin = " and ".join(f"{m:g} in {COLUMNS[name]}" for name, m in MARGINS.items())
    note = (
        "Paired differences with 95 % bootstrap intervals; one-sided paired bootstrap tests at 5 %. No worse: by less "
        f"than {margin}. The gates have their own margins, in the recipe."
    )
    heads = ["policy", "metric", "difference", "p (better)", "better", "p (no worse)", "no worse"]
    return Table(f"{verdict.candidate} against the others", heads, rows, note)


def worst_table(verdict: Verdict, most: int, links: Mapping[tuple[str, str], SceneLink]) -> Table:
    """The scenes in which the candidate and the car did worst: what failed, when, and how to see it."""
    rows: list[list[Cell]] = []
    for policy in dict.fromkeys((verdict.candidate, WHOLE_CAR)):
        for f in worst_scenes(verdict.scenes, verdict.scores[policy], most):
            rows.append([policy, links[policy, f.scene], f.score, f.term, f.at if np.isfinite(f.at) else None])
    note = (
        f"What went wrong first in the scenes with the lowest {VERSIONS[SCORE]}. A scene's id links to the film of "
        "that drive; the command, run in the run directory, shows what was recorded there."
    )
    return Table("Worst scenes", ["policy", "scene", "driving score", "what failed", "at, s"], rows, note)


def car_table(done: Done, perception: Perception) -> Table:
    """Effect of the guard: the car's whole runtime, turn by turn, beside drivers that do not change."""
    verdicts = [(turn, load_verdict(a.path / "verdict.json")) for turn, kind, a in done if kind == "verdict"]
    rows: list[list[Cell]] = []
    for turn, verdict in verdicts:
        rows.append([f"turn {turn}", *(verdict.summary[WHOLE_CAR].get(m) for m in COLUMNS)])
    last = verdicts[-1][1].summary
    rows += [[name, *(last[name].get(m) for m in COLUMNS)] for name in BASELINES if name in last]
    note = (
        "The releases as a car runs them. Releases are judged with the guard off, as it would hide the quality of the "
        f"model itself. The guard brakes for what the car's perception reports, here {perception}."
    )
    return Table("In the car, guard on", ["release", *COLUMNS.values()], rows, note)


def open_loop_table(samples: int, table: dict[str, dict[str, list[float]]]) -> Table:
    """Errors of the model (last row) and of the baselines. table: policy -> metric -> mean, low, high."""
    metrics = list(table["model"])
    heads = [OPEN_LOOP.get(m, m.replace("_", " ")) for m in metrics]
    rows: list[list[Cell]] = []
    for name, values in table.items():
        spans = [(mean, low, high) for mean, low, high in (values[m] for m in metrics)]
        rows.append([name, *spans])
    note = f"{samples} decisions from the last part of the drive, held out by time; 95 % intervals over blocks of time."
    return Table("Open loop, held-out part of the drive", ["policy", *heads], rows, note, len(rows) - 1)


def source_table(fields: dict[str, str]) -> Table:
    """The origin of each field of the source's drives."""
    rows: list[list[Cell]] = [[field, re.sub(r"^true \((.*?)\)", r"\1", what)] for field, what in fields.items()]
    return Table("What the source holds", ["field", "from"], rows)


def traffic_table(done: Done) -> list[Table]:
    """Realism of the simulated traffic; empty if it was not judged."""
    found = [a for _, kind, a in done if kind == "realism"]
    if not found:
        return []
    fields = json.loads((found[-1].path / "realism.json").read_text())
    metrics = ("realism", "kinematic", "interactive", "map_based")
    rows: list[list[Cell]] = [[name, *(_span_of(of_one[m]) for m in metrics)] for name, of_one in fields.items()]
    note = (
        "Likelihood of the log under the simulated motion, mean over held-out scenes with 95 % intervals; one rollout. "
        "Reactive traffic is what all policies above drive in, here around log replay. Log replay is the upper bound."
    )
    heads = ["traffic", f"realism ({WOSAC})", "kinematic", "interactive", "map-based"]
    return [Table("How real the traffic is", heads, rows, note)]


def _span_of(value: list[float] | None) -> Cell:
    return None if value is None else (value[0], value[1], value[2])
