"""The report of a run, from its artefacts; everything shown is stored in one of them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from drivefoundry import outputs
from drivefoundry.compute import cores
from drivefoundry.judge.gate import Verdict, gate_figures, load_verdict
from drivefoundry.judge.worst import SCORE, failed_scenes
from drivefoundry.ledger import Artefact
from drivefoundry.recipes import Recipe
from drivefoundry.reports.content import (
    Baseline,
    Curve,
    Fact,
    Film,
    GateRow,
    Made,
    Remark,
    ReportContent,
    SceneLink,
    StageRow,
    Table,
    Turn,
)
from drivefoundry.reports.films import film_id, films_of
from drivefoundry.reports.html import render_report
from drivefoundry.reports.quantities import quantities
from drivefoundry.reports.tables import (
    COLUMNS,
    ORDER,
    Done,
    against_table,
    car_table,
    judge_table,
    open_loop_table,
    source_table,
    traffic_table,
    worst_table,
)
from drivefoundry.sources import code_hash
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.score import WHOLE_CAR, YARDSTICK
from drivefoundry.types import short_id

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source

PAGE = "report.html"
TRAININGS = {"pretrain": "pre-training", "sft": "SFT", "rl": "RL", "distil": "distillation", "adapt": "adaptation"}
"""Kind of artefact -> the name of its curve."""


def machine() -> str:
    """One line about this machine."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {cores()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def finished(done: Done) -> str:
    """When the last artefact was finished."""
    return datetime.fromtimestamp(max((a.finished for *_, a in done), default=0.0), UTC).strftime("%Y-%m-%d %H:%M UTC")


def stage_rows(done: Done) -> list[StageRow]:
    """One row per artefact, in build order."""
    rows = []
    for turn, kind, a in done:
        policy = a.info.get("policy", "")
        name = kind.replace("_", " ") + (f": {policy}" if policy else "")
        share = min(1.0, a.cpu_seconds / max(a.seconds * cores(), 1e-6))
        rows.append(StageRow(turn, name, a.seconds, share, quantities(a.info), size_of(a), a.made))
    return rows


def size_of(a: Artefact) -> int:
    """Bytes that a stage produced; for clips, the bytes uploaded, which are in the store."""
    return int(a.info.get("sent_bytes", a.bytes))


def turns_of(done: Done) -> list[Turn]:
    """One Turn per verdict."""
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


def targets(turns: Sequence[Turn], verdict: Verdict) -> list[Remark]:
    """Targets of the run beyond the gates, and whether they were met."""
    out: list[Remark] = []
    s = {name: m[SCORE] for name, m in verdict.summary.items()}

    def say(ok: bool, text: str) -> None:
        out.append(Remark("target", text, ok))

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
    return out


def failures(verdict: Verdict, scenes: Mapping[tuple[str, str], SceneLink], most: int) -> list[Remark]:
    """How the candidate, and the car with its guard, failed in scenes; the `most` worst scenes of each kind."""
    out = []
    for policy in (verdict.candidate, WHOLE_CAR):
        m = verdict.scores[policy]
        for what, (count, worst) in failed_scenes(m, most).items():
            text = f"{policy} {what} in {count} of {len(m[SCORE])} scenes."
            out.append(Remark("failed", text, scenes=[scenes[policy, verdict.scenes[i]] for i in worst]))
    return out


def scene_links(verdict: Verdict, turn: int, films: Sequence[Film]) -> dict[tuple[str, str], SceneLink]:
    """(policy, scene id) -> short id, this turn's film if there is one, and the command that shows the scene when run
    in the run directory."""
    filmed = {film.id for film in films}
    out = {}
    for policy in (verdict.candidate, WHOLE_CAR):
        for scene in verdict.scenes:
            short, film = short_id(scene), film_id(scene, policy, turn)
            command = f"drivefoundry scene show . --scene {short} --out {short}.mp4"
            out[policy, scene] = SceneLink(short, film if film in filmed else "", command)
    return out


def curves_of(done: Done, reward_name: str) -> list[Curve]:
    """Loss and reward over steps, from the stages' metrics."""
    loss: dict[str, tuple[list[float], list[float]]] = {}
    reward: dict[str, tuple[list[float], list[float]]] = {}
    for turn, kind, a in done:
        file = a.path / "metrics.jsonl"
        if not file.exists():
            continue
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        name = TRAININGS.get(kind, kind.replace("_", " ")) + (f", turn {turn}" if turn is not None else "")
        measured = [(r["step"], r["val_loss"]) for r in rows if "val_loss" in r]
        if measured:
            loss[f"{name}, validation"] = ([p[0] for p in measured], [p[1] for p in measured])
        for key, into in (("loss", loss), ("reward", reward)):
            points = [(r["step"], r[key]) for r in rows if r.get(key) is not None and "step" in r]
            if points and not (key == "loss" and kind == "rl"):
                into[name] = ([p[0] for p in points], [p[1] for p in points])
    out = []
    if loss:
        out.append(Curve("Training loss", loss, "step", "loss"))
    if reward:
        out.append(
            Curve(f"Reward in reinforcement learning ({reward_name} of sampled plans)", reward, "step", "reward")
        )
    return out


def baselines(verdict: Verdict) -> list[Baseline]:
    """Drivers that do not change from turn to turn."""
    names = [n for n in ("constant velocity", YARDSTICK) if n in verdict.summary]
    return [Baseline(n, verdict.summary[n][SCORE][0], verdict.summary[n]["collision"][0]) for n in names]


def loop_report(recipe: Recipe, done: Done, source: str, lacks: Sequence[str], films: Sequence[Film]) -> ReportContent:
    """The report of a run of the loop. lacks: sentences about what the source does not contain."""
    plain = replace(_plain(recipe, done, source, [Remark("lacks", text) for text in lacks]), films=films)
    verdicts = [a for _, kind, a in done if kind == "verdict"]
    if not verdicts:
        return plain.validate()
    verdict = load_verdict(verdicts[-1].path / "verdict.json")
    turns = turns_of(done)
    links = scene_links(verdict, turns[-1].number, films)
    return replace(
        plain,
        scenes=f"{len(verdict.scenes)} held-out scenes, up to {recipe.judge.seconds:g} s each",
        facts=[*headline(turns), *plain.facts],
        turns=turns,
        baselines=baselines(verdict),
        tables=[
            judge_table(verdict, ORDER),
            against_table(verdict, ORDER),
            car_table(done, recipe.perception),
            worst_table(verdict, recipe.judge.worst, links),
            *traffic_table(done),
        ],
        notes=[*targets(turns, verdict), *failures(verdict, links, recipe.judge.worst), *plain.notes],
        gates=[GateRow(gate_words(name), gate.state, gate_figures(gate)) for name, gate in verdict.gates.items()],
    ).validate()


def gate_words(name: str) -> str:
    """The name of a verdict's gate in words, for example of "student: driving_score_21 vs RL >="."""
    words = " ".join(COLUMNS.get(word, word) for word in name.split(" "))
    for sign, word in ((" vs ", " minus that of "), (" <=", " at most"), (" >=", " at least")):
        words = words.replace(sign, word)
    return words


def headline(turns: Sequence[Turn]) -> list[Fact]:
    """Results of the last release, beside the first."""
    first, last = turns[0], turns[-1]
    return [
        Fact("driving score", f"{last.driving_score[0]:.2f}", f"first release {first.driving_score[0]:.2f}"),
        Fact("collisions", f"{100 * last.collisions[0]:.1f} %", f"first release {100 * first.collisions[0]:.1f} %"),
        Fact("turns of the loop", str(len(turns))),
    ]


def _plain(recipe: Recipe, done: Done, source: str, notes: Sequence[Remark]) -> ReportContent:
    """Contents of every report: machine, stages with their time, curves, lineage."""
    seconds = sum(a.seconds for _, _, a in done)
    busy = sum(a.cpu_seconds for _, _, a in done) / max(seconds * cores(), 1e-9)
    return ReportContent(
        title="drivefoundry",
        subtitle=source,
        machine=machine(),
        made_at=finished(done),
        recipe=recipe.name,
        facts=[Fact("total build time", f"{seconds / 60:.1f} min", f"{100 * busy:.0f} % of it computing")],
        stages=stage_rows(done),
        curves=curves_of(done, recipe.rl.reward),
        notes=notes,
        lineage=[Made(a.id, kind, a.parents, size_of(a), turn) for turn, kind, a in done],
    )


def _span(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def camera_report(recipe: Recipe, done: Done, source: str) -> ReportContent:
    """The report of a run on real camera drives: open-loop errors instead of turns."""
    by = {kind: a for _, kind, a in done}
    tables: list[Table] = []
    notes: list[Remark] = []
    if "open_loop" in by:
        open_loop = json.loads((by["open_loop"].path / "open_loop.json").read_text())
        tables.append(open_loop_table(open_loop["samples"], open_loop["table"]))
        errors = {name: metrics["ade_4s"][0] for name, metrics in open_loop["table"].items()}
        mine = errors["model"]
        for name in ("constant velocity", "constant yaw rate"):
            text = f"Mean trajectory error below {name}: {mine:.3f} m against {errors[name]:.3f} m."
            notes.append(Remark("target", text, mine < errors[name]))
    if "import" in by:
        fields = json.loads((by["import"].path / "notes.json").read_text())
        tables.append(source_table(fields))
        notes += [Remark("lacks", f"{field}: {what}.") for field, what in fields.items() if what.startswith("absent")]
    return replace(_plain(recipe, done, source, notes), tables=tables).validate()


def report(line: RunContext, source: Source | None, folder: Path | None) -> Path:
    """Write out/report.html of a run and return its path; it is rendered only if one of the run's artefacts changed.

    A read-only line gets its page without a ledger entry, so that it needs no lock.

    source: origin of the loop's situations; None for a camera run on `folder`.
    """
    done, path = list(line.done), line.out / PAGE

    def build(out: Path) -> None:
        render_report(_content(line, done, source, folder), out / PAGE)

    told_of, parents = {"recipe": line.recipe.name, "source": _source_name(source, folder)}, [a for *_, a in done]
    if line.look:
        made = line.ledger.find("report", told_of, parents, code_hash(build))
        if made is None:
            render_report(_content(line, done, source, folder), path)
            return path
    else:
        made = line.ledger.make("report", told_of, parents, code_hash(build), build)
    line.done.append((None, "report", made))
    if line.on_done:
        line.on_done(line)
    page = (made.path / PAGE).read_bytes()
    if not path.exists() or path.read_bytes() != page:
        with outputs.file(path) as aside:
            aside.write_bytes(page)
    return path


def _source_name(source: Source | None, folder: Path | None) -> str:
    if source:
        return source.name
    assert folder is not None
    return f"real camera drive: {folder.resolve().name}"


def _content(line: RunContext, done: Done, source: Source | None, folder: Path | None) -> ReportContent:
    if source is None:
        return camera_report(line.recipe, done, _source_name(source, folder))
    exam = [a for _, kind, a in done if kind == "exam"]
    scenes = source.scenes(line, exam[0]) if exam else []
    return loop_report(line.recipe, done, source.name, source.lacks(), films_of(scenes, done, line.recipe.judge.worst))
