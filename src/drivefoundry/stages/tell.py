"""What the run has made in, the report's content out: nothing is computed here that an artefact does not hold."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drivefoundry.compute import cores
from drivefoundry.judge.gate import MARGINS, load_verdict
from drivefoundry.judge.stats import Comparison
from drivefoundry.judge.versions import VERSIONS
from drivefoundry.judge.worst import SCORE, worst_scenes
from drivefoundry.ledger import Artefact
from drivefoundry.recipes import Recipe
from drivefoundry.stages.films import films_of
from drivefoundry.stages.making import TELL, Line
from drivefoundry.stages.score import ENGINE, WHOLE_CAR, YARDSTICK
from drivefoundry.types import Verdict
from drivefoundry.ui.content import (
    Baseline,
    Cell,
    Curve,
    Fact,
    Film,
    Gate,
    Made,
    Note,
    ReportContent,
    StageRow,
    Table,
    Turn,
)
from drivefoundry.ui.report import render_report

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source

PAGE = "report.html"
Done = Sequence[tuple[int | None, str, Artefact]]
COLUMNS = {
    SCORE: "driving score (CARLA 2.1)", "driving_score_20": "driving score (CARLA 2.0)",
    "epdms": "EPDMS (NAVSIM v2.2, two stages)", "pdms": "PDMS (NAVSIM v1, closed loop)", "collision": "collisions",
    "at_fault_collision": "at fault", "off_road": "off road", "red_light": "red light run",
    "progress": "route completion", "comfort": "comfort",
}  # fmt: skip
WORST = 8
"""Scenes of the table of failures."""


def machine() -> str:
    """This machine in a line."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {cores()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def finished(done: Done) -> str:
    """When the last artefact was made."""
    return datetime.fromtimestamp(max((a.finished for *_, a in done), default=0.0), UTC).strftime("%Y-%m-%d %H:%M UTC")


def stage_rows(done: Done) -> list[StageRow]:
    """One row an artefact, in the order made."""
    rows = []
    for turn, kind, a in done:
        policy = a.info.get("policy", "")
        name = kind.replace("_", " ") + (f": {policy}" if policy else "")
        share = min(1.0, a.cpu_seconds / max(a.seconds * cores(), 1e-6))
        rows.append(StageRow(turn, name, a.seconds, share, told(a.info), size_of(a), a.made))
    return rows


def size_of(a: Artefact) -> int:
    """Bytes that the stage made: for clips what was sent home, which lies in the store."""
    return int(a.info.get("sent_bytes", a.bytes))


def told(info: dict[str, Any]) -> str:
    """An artefact's word about itself as a phrase."""
    said = []
    for key, value in info.items():
        if isinstance(value, bool) or key in ("policy", "sent_bytes", "recorded_bytes", "bytes"):
            continue
        if isinstance(value, dict):
            said.append(f"{key.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in list(value.items())[:9]))
        elif isinstance(value, float):
            said.append(f"{key.replace('_', ' ')} {value:.3g}")
        elif isinstance(value, (int, str)):
            said.append(f"{key.replace('_', ' ')} {value}")
    return "; ".join(said[:8])


def turns_of(done: Done) -> list[Turn]:
    """One Turn a verdict."""
    out = []
    by = {(turn, kind): a for turn, kind, a in done}
    for (turn, kind), a in by.items():
        if kind != "verdict" or turn is None:
            continue
        verdict = load_verdict(a.path / "verdict.json")
        mine = verdict.summary[verdict.candidate]
        outings = by.get((turn, "outings"))
        released = by.get((turn, "release"))
        out.append(
            Turn(
                number=turn,
                driving_score=mine[SCORE],
                collisions=mine["collision"],
                pdms=mine["pdms"],
                takeovers_per_km=outings.info["takeovers_per_km"] if outings else None,
                clips=by[turn, "ingest"].info["clips"],
                release_id=released.info["release"] if released else "",
            )
        )
    return out


def judge_table(verdict: Verdict, order: Sequence[str]) -> Table:
    """All policies of the last verdict, side by side on the same scenes."""
    names = [n for n in order if n in verdict.summary]
    rows = [[n, *(verdict.summary[n].get(m) for m in COLUMNS)] for n in names]
    note = (
        "Every policy drives the same held-out scenes; mean and 95 % bootstrap interval over scenes. The route "
        "follower reads the simulator's state (privileged) and sets the progress that counts as 1; log replay follows "
        "the recorded person in traffic that reacts; PDM-Closed style picks the best of 15 scored proposals, with the "
        "state all around. A collision counts whoever is at fault. Formulas and sources: docs/metrics.md."
    )
    marked = names.index(verdict.candidate) if verdict.candidate in names else None
    return Table("Closed loop, held-out scenes", ["policy", *COLUMNS.values()], rows, note, marked)


ORDER = (
    "constant velocity",
    "pre-trained",
    "SFT",
    "RL",
    "student",
    ENGINE,
    WHOLE_CAR,
    "log replay",
    "PDM-Closed style",
    YARDSTICK,
)


def targets(turns: Sequence[Turn], verdict: Verdict) -> list[Note]:
    """What the run set out to reach, and whether it did."""
    out: list[Note] = []
    s = {name: m[SCORE] for name, m in verdict.summary.items()}

    def say(ok: bool, text: str) -> None:
        out.append(Note("target", text, ok))

    last = turns[-1]
    floor = s["constant velocity"]
    say(
        last.driving_score[1] > floor[2],
        f"Last release above constant velocity, intervals apart: {_span(last.driving_score)} against {_span(floor)}.",
    )
    if len(turns) > 1:
        first = turns[0].driving_score
        say(
            last.driving_score[1] > first[2],
            f"Last release above the first, intervals apart: {_span(last.driving_score)} against {_span(first)}.",
        )
    say(last.collisions[0] <= 0.10, f"Collisions in at most 10 % of scenes: {100 * last.collisions[0]:.1f} %.")
    if "RL" in s and "SFT" in s:
        say(s["RL"][0] >= s["SFT"][0], f"RL at least SFT in driving score: {s['RL'][0]:.3f} against {s['SFT'][0]:.3f}.")
    if "student" in s and "RL" in s:
        kept = s["student"][0] / max(s["RL"][0], 1e-9)
        say(kept >= 0.85, f"Student keeps at least 85 % of its teacher's driving score: {100 * kept:.1f} %.")
    if "student" in s:
        kept = s[ENGINE][0] / max(s["student"][0], 1e-9)
        say(kept >= 0.95, f"Int8 engine keeps at least 95 % of the float student's driving score: {100 * kept:.1f} %.")
    return out


def car_table(done: Done) -> Table:
    """What the guard adds: the car's whole runtime, turn by turn."""
    rows = []
    for turn, kind, a in done:
        if kind == "verdict" and turn is not None:
            mine = load_verdict(a.path / "verdict.json").summary[WHOLE_CAR]
            rows.append([f"turn {turn}", *(mine.get(m) for m in COLUMNS)])
    note = (
        "The releases as a car runs them. Releases are judged with the guard off: it brakes for what the car's "
        "perception tracks, which in simulation is without error, and would hide what the model itself is worth."
    )
    return Table("In the car, guard on", ["release", *COLUMNS.values()], rows, note)


def against_table(verdict: Verdict, order: Sequence[str]) -> Table:
    """The candidate against every other policy, scene by scene."""
    rows: list[list[Cell]] = []
    for name in (n for n in order if n in verdict.comparisons):
        for metric, told in verdict.comparisons[name].items():
            c = Comparison(**told)
            apart = (c.difference, c.low, c.high)
            rows.append([name, COLUMNS[metric], apart, c.p_superior, c.superior, c.p_non_inferior, c.non_inferior])
    margin = " and ".join(f"{m:g} in {COLUMNS[name]}" for name, m in MARGINS.items())
    note = (
        "Differences scene by scene with 95 % bootstrap intervals; one-sided paired bootstrap tests at 5 %. No worse: "
        f"by less than {margin}. No gate hangs on this table."
    )
    heads = ["policy", "metric", "difference", "p (better)", "better", "p (no worse)", "no worse"]
    return Table(f"{verdict.candidate} against the others", heads, rows, note)


def worst_table(verdict: Verdict) -> Table:
    """The scenes in which the candidate and the car did worst: what failed, and when."""
    rows: list[list[Cell]] = []
    for policy in dict.fromkeys((verdict.candidate, WHOLE_CAR)):
        for f in worst_scenes(verdict.scenes, verdict.scores[policy], WORST):
            rows.append([policy, f.scene[:12], f.score, f.term, f.at if np.isfinite(f.at) else None])
    note = (
        f"What went wrong first in the scenes of the lowest {VERSIONS[SCORE]}. Films of the car's failures are below."
    )
    return Table("Worst scenes", ["policy", "scene", "driving score", "what failed", "at, s"], rows, note)


def failures(verdict: Verdict) -> list[Note]:
    """How the candidate's failed scenes failed, and those of the car with its guard."""
    return [note for policy in (verdict.candidate, WHOLE_CAR) for note in _failures(verdict, policy)]


def _failures(verdict: Verdict, policy: str) -> list[Note]:
    m = verdict.scores[policy]
    out = []
    for key, what in (("collision", "collided"), ("off_road", "left the road"), ("red_light", "ran a red light")):
        bad = np.flatnonzero(m[key] > 0)
        if len(bad):
            ids = ", ".join(verdict.scenes[i][:12] for i in bad[:4])
            out.append(Note("failed", f"{policy} {what} in {len(bad)} of {len(m[key])} scenes (first: {ids})."))
    slow = int((m["progress"] < 0.5).sum())
    if slow:
        out.append(Note("failed", f"{policy} got less than half as far as the route follower in {slow} scenes."))
    return out


def curves_of(done: Done) -> list[Curve]:
    """Loss and reward over samples, from the metrics that the stages wrote."""
    loss: dict[str, tuple[list[float], list[float]]] = {}
    reward: dict[str, tuple[list[float], list[float]]] = {}
    for turn, kind, a in done:
        file = a.path / "metrics.jsonl"
        if not file.exists():
            continue
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        for key, into in (("loss", loss), ("reward", reward)):
            points = [(r["step"], r[key]) for r in rows if r.get(key) is not None and "step" in r]
            if points and not (key == "loss" and kind == "rl"):
                into[f"{kind} {turn}"] = ([p[0] for p in points], [p[1] for p in points])
    out = []
    if loss:
        out.append(Curve("Training loss", loss, "step", "loss"))
    if reward:
        out.append(Curve("Reward in reinforcement (PDMS of sampled plans)", reward, "step", "reward"))
    return out


def baselines(verdict: Verdict) -> list[Baseline]:
    """Drivers that no turn changes."""
    names = [n for n in ("constant velocity", YARDSTICK) if n in verdict.summary]
    return [Baseline(n, verdict.summary[n][SCORE][0], verdict.summary[n]["collision"][0]) for n in names]


def loop_report(recipe: Recipe, done: Done, source: str, lacks: Sequence[str], films: Sequence[Film]) -> ReportContent:
    """The report of a run of the loop. `lacks`: sentences on what the source does not hold."""
    plain = replace(_plain(recipe, done, source, [Note("lacks", text) for text in lacks]), films=films)
    verdicts = [a for _, kind, a in done if kind == "verdict"]
    if not verdicts:
        return plain.validate()
    verdict = load_verdict(verdicts[-1].path / "verdict.json")
    turns = turns_of(done)
    return replace(
        plain,
        scenes=f"{len(verdict.scenes)} held-out scenes, {recipe.judge.seconds:g} s each at most",
        facts=[*headline(turns), *plain.facts],
        turns=turns,
        baselines=baselines(verdict),
        tables=[judge_table(verdict, ORDER), against_table(verdict, ORDER), car_table(done), worst_table(verdict)],
        notes=[*targets(turns, verdict), *failures(verdict), *plain.notes],
        gates=[Gate(name, value, bound, ok) for name, (value, bound, ok) in verdict.gates.items()],
    ).validate()


def headline(turns: Sequence[Turn]) -> list[Fact]:
    """What the last release is worth, beside the first."""
    first, last = turns[0], turns[-1]
    return [
        Fact("driving score", f"{last.driving_score[0]:.2f}", f"first release {first.driving_score[0]:.2f}"),
        Fact("collisions", f"{100 * last.collisions[0]:.1f} %", f"first release {100 * first.collisions[0]:.1f} %"),
        Fact("turns of the loop", str(len(turns))),
    ]


def _plain(recipe: Recipe, done: Done, source: str, notes: Sequence[Note]) -> ReportContent:
    """What every report says: the machine, the stages with their time, curves, lineage."""
    seconds = sum(a.seconds for _, _, a in done)
    busy = sum(a.cpu_seconds for _, _, a in done) / max(seconds * cores(), 1e-9)
    return ReportContent(
        title="drivefoundry",
        subtitle=source,
        machine=machine(),
        made_at=finished(done),
        recipe=recipe.name,
        facts=[Fact("time to make all of it", f"{seconds / 60:.1f} min", f"{100 * busy:.0f} % of it computing")],
        stages=stage_rows(done),
        curves=curves_of(done),
        notes=notes,
        lineage=[Made(a.id, kind, a.parents, size_of(a), turn) for turn, kind, a in done],
    )


def _span(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def camera_report(recipe: Recipe, done: Done, source: str) -> ReportContent:
    """The report of a run on real camera drives: open-loop errors instead of turns."""
    by = {kind: a for _, kind, a in done}
    tables: list[Table] = []
    notes: list[Note] = []
    if "open_loop" in by:
        said = json.loads((by["open_loop"].path / "open_loop.json").read_text())
        tables.append(open_loop_table(said["samples"], said["table"]))
        errors = {name: metrics["ade_4s"][0] for name, metrics in said["table"].items()}
        mine = errors["model"]
        for name in ("constant velocity", "constant yaw rate"):
            text = f"Mean trajectory error below {name}: {mine:.3f} m against {errors[name]:.3f} m."
            notes.append(Note("target", text, mine < errors[name]))
    if "import" in by:
        lacks = json.loads((by["import"].path / "notes.json").read_text())
        notes += [Note("lacks", f"{field}: {what}.") for field, what in lacks.items()]
    return replace(_plain(recipe, done, source, notes), tables=tables).validate()


def open_loop_table(samples: int, table: dict[str, dict[str, list[float]]]) -> Table:
    """Errors of the model (last) and of the baselines: policy -> metric -> mean, low, high."""
    metrics = list(table["model"])
    heads = [m.replace("_", " ") + (" rad/s" if m == "yaw_rate" else " m") for m in metrics]
    rows: list[list[Cell]] = []
    for name, values in table.items():
        spans = [(mean, low, high) for mean, low, high in (values[m] for m in metrics)]
        rows.append([name, *spans])
    note = f"{samples} decisions of the last part of the drive, held out by time; 95 % intervals over blocks of time."
    return Table("Open loop, held-out part of the drive", ["policy", *heads], rows, note, len(rows) - 1)


def report(line: Line, source: Source | None, folder: Path | None) -> Path:
    """A run's line in, path of out/report.html out; rendered anew only when one of its artefacts is another.

    source: where the loop's situations came from; None for a camera run on `folder`.
    """
    done = list(line.done)

    def build(out: Path) -> None:
        render_report(_content(line, done, source, folder), out / PAGE)

    told_of = {"recipe": line.recipe.name, "source": _source_name(source, folder)}
    made = line.ledger.make("report", told_of, [a for *_, a in done], TELL, build)
    line.done.append((None, "report", made))
    path = line.out / PAGE
    page = (made.path / PAGE).read_bytes()
    if not path.exists() or path.read_bytes() != page:
        aside = path.with_name(f".{PAGE}.tmp")
        aside.write_bytes(page)
        os.replace(aside, path)
    return path


def _source_name(source: Source | None, folder: Path | None) -> str:
    if source:
        return source.name
    assert folder is not None
    return f"real camera drive: {folder.resolve().name}"


def _content(line: Line, done: Done, source: Source | None, folder: Path | None) -> ReportContent:
    if source is None:
        return camera_report(line.recipe, done, _source_name(source, folder))
    exam = [a for _, kind, a in done if kind == "exam"]
    scenes = source.exam_scenes(line, exam[0]) if exam else []
    return loop_report(line.recipe, done, source.name, source.lacks(), films_of(scenes, done))
