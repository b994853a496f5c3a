"""The loop, top to bottom: cars record and upload clips, a model is trained, judged, signed and driven, and again.

Every step is one entry of the ledger: a second run builds only what is missing or depends on something that changed.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drivefoundry import progress
from drivefoundry.judge.release_gates import STUDENT, TEACHER
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe
from drivefoundry.reports import run as reports
from drivefoundry.runs import links
from drivefoundry.runs.asked import Asked, remember
from drivefoundry.runs.inventory import PROGRESS
from drivefoundry.stages.context import RunContext, StopAfterStage
from drivefoundry.tracking import requested as requested_tracker

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source


def loop(line: RunContext, source: Source) -> None:
    """Run all turns. `source`: where exam and situations come from, the embedded city or recorded traffic."""
    from drivefoundry.stages import ingest, label, score, ship, train

    exam = source.exam(line)
    scenes = score.Exam(source, exam)
    baselines: list[Artefact] = []
    kept: Artefact | None = None
    base: Artefact | None = None
    student: Artefact | None = None
    release: Artefact | None = None
    car: Artefact | None = None
    shards: list[Artefact] = []
    val: Artefact | None = None
    judged: list[score.Earlier] = []
    for turn in range(1, line.recipe.loops + 1):
        drives = source.drives(line, turn, car)
        clips = ingest.ingest(line, turn, drives)
        kept = label.curated(line, turn, clips, exam, kept, source.exam_clips(exam))
        shards.append(label.shard(line, turn, clips, kept))
        if turn == 1 and (seen := source.validation(line)):
            apart = label.curated(line, None, seen, None, None, label.listed(seen))
            val = label.shard(line, None, seen, apart, "held_out")
        if base is None:
            base = train.pretrained(line, shards, val=val)
        sft = train.fine_tuned(line, turn, base, shards, val)
        rl = train.reinforced(line, turn, sft, shards)
        student = train.distilled(line, turn, rl, student, shards, val)
        engine = train.quantised(line, turn, student, shards)
        baselines = baselines or score.baselines(line, scenes)
        scored = [grade(line, turn, scenes, baselines, engine) for grade in (score.engine, score.car)]
        models = {STUDENT: student, TEACHER: rl}
        scored += [score.model(line, turn, scenes, baselines, k, m) for k, m in models.items()]
        if turn == line.recipe.loops:
            score.traffic(line, scenes)
        verdict = score.verdict(line, turn, scored, baselines, judged)
        judged.append((scored[0], verdict))
        release = ship.release(line, turn, engine, verdict, release)
        car = ship.car(line, turn, release, car)
        base = rl


def camera(line: RunContext, folder: Path) -> None:
    """Real drives: clips, labels from the car's own motion, the fleet's model adapted to them, and its errors on the
    last part of the drive."""
    from drivefoundry.stages import label, openloop, train

    r = line.recipe
    real = replace(line, recipe=replace(r, curate=replace(r.curate, phases=r.camera.phases)))
    clips = openloop.imported(real, folder)
    kept = label.curated_by_time(real, clips)
    shard, held_out = (label.shard(real, None, clips, kept, split) for split in ("train", "held_out"))
    val = label.shard(real, None, clips, kept, "val") if label.has(kept, "val") else None
    openloop.scored(real, train.adapted(real, fleet_base(line), shard, val), held_out)


def fleet_base(line: RunContext) -> Artefact:
    """The base model of the embedded fleet's first turn, for a model that is to imitate a driver: minutes of a real
    camera are too little to train from scratch."""
    from drivefoundry.stages import ingest, label, record, train

    r = line.recipe
    clips = ingest.ingest(line, 1, record.EmbeddedCity().drives(line, 1, None))
    line = replace(line, recipe=replace(r, pretrain=replace(r.pretrain, ego_changes=True, action=r.camera.action)))
    shard = label.shard(line, 1, clips, label.curated(line, 1, clips, None, None, []))
    return train.pretrained(line, [shard])


CAMERA_STAGES = ("import", "curate", "label", "train", "judge")
"""Stages of `camera`."""
BEFORE_RL = ("fleet", "ingest", "import", "curate", "label", "train")
"""Stages that do not need a model that can be reinforced."""


@dataclass(frozen=True)
class Ran:
    """Result of a run. done: (turn, kind, artefact) in the line's order; in a dry run, those without an id would be
    built."""

    report: Path
    seconds: float
    done: list[tuple[int | None, str, Artefact]]
    text: str


def run(
    recipe: Recipe,
    out: Path,
    *,
    until: str | None = None,
    drives: Path | None = None,
    scenes: Path | None = None,
    track: str = "",
    dry: bool = False,
) -> Ran:
    """Run the whole line under `out`, or up to the stage `until`, and write the report.

    drives: a folder of real drives with a camera; scenes: a folder of recorded traffic; neither: the embedded city.
    track: an additional experiment tracker, see `tracking`. dry: build nothing, list what would be built.
    """
    if drives and until not in (None, *CAMERA_STAGES):
        raise ValueError(f"{until}: camera drives have no scene truth to drive in; they go {', '.join(CAMERA_STAGES)}")
    asked = Asked(recipe, drives, scenes)
    requested_tracker(track)
    source = _source(asked)
    if not drives and until not in BEFORE_RL:
        recipe.reinforceable()
    start = time.monotonic()
    last = None if drives or until == "import" else recipe.loops
    with Ledger.reading(out, may_be_absent=True) if dry else Ledger(out) as ledger:
        line = RunContext(ledger, recipe, out, until, last, dry=dry, track=track)
        if not dry:
            ledger.claim()
            line.on_done = lambda line: _record(line, asked)
            remember(out, asked)
        with contextlib.nullcontext() if dry else progress.kept(out / PROGRESS):
            _through(line, source, drives)
            if not dry:
                links.without_dangling(out)
            report = out / reports.PAGE if dry else reports.report(line, source, drives)
    seconds = time.monotonic() - start
    text = _expected(line) if dry else _made(line, seconds, report)
    return Ran(report, seconds, line.done, text)


def report(asked: Asked, out: Path, *, dry: bool = False) -> Ran:
    """Write out/report.html of a recipe's existing artefacts, even while a run builds more; nothing else is built and
    no lock is taken. ValueError if there are none."""
    source = _source(asked)
    start = time.monotonic()
    with Ledger.reading(out) as ledger:
        line = RunContext(ledger, asked.recipe, out, look=True)
        _through(line, source, asked.drives)
        if not line.done:
            raise ValueError(f"{out}: nothing made with this recipe yet; wait for it, or repeat the options of its run")
        page = out / reports.PAGE if dry else reports.report(line, source, asked.drives)
    text = f"would write {page} of {len(line.done)} artefacts" if dry else str(page)
    return Ran(page, time.monotonic() - start, line.done, text)


def _record(line: RunContext, asked: Asked) -> None:
    """Update run.json and the links to the line's current state."""
    remember(line.out, asked, line.done)
    turn, kind, artefact = line.done[-1]
    links.link(line.out, kind, turn, artefact.path)


def _source(asked: Asked) -> Source | None:
    """Where a run's situations come from, None for camera drives; invalid input leaves no directory behind."""
    from drivefoundry.clips.importers.folder import kind_for
    from drivefoundry.stages import record

    if asked.drives and asked.scenes:
        raise ValueError("--drives and --scenes: give one; a camera drive has no scene truth, a scene no camera")
    asked.recipe.validate()
    if asked.drives:
        kind_for(asked.drives, "drives")
        return None
    return record.RecordedTraffic(asked.scenes) if asked.scenes else record.EmbeddedCity()


def _through(line: RunContext, source: Source | None, drives: Path | None) -> None:
    """Go through the line as far as requested."""
    with contextlib.suppress(StopAfterStage):
        if source:
            loop(line, source)
        elif drives:
            camera(line, drives)


def _made(line: RunContext, seconds: float, report: Path) -> str:
    made, known = sum(a.made for _, _, a in line.done), len(line.done)
    what = f"{made} of {known} artefacts made" if made else f"nothing to do, all {known} artefacts are up to date"
    return f"{what} ({seconds:.1f} s); report: {report}"


def _expected(line: RunContext) -> str:
    """Output of a dry run: each artefact that would be built, and how many exist."""
    missing = [
        (turn, f"{kind.replace('_', ' ')} {a.info.get('policy', '')}") for turn, kind, a in line.done if not a.id
    ]
    lines = [f"{f'turn {turn}' if turn else '':7}{name.rstrip()}: would be made" for turn, name in missing]
    there = len(line.done) - len(missing)
    if not missing:
        return f"nothing to do, all {there} artefacts are up to date"
    lines.append(f"{there} artefacts are up to date, {len(missing)} would be made, then {line.out / reports.PAGE}")
    if there:
        lines.append("(an artefact whose parents come out identical is not rebuilt)")
    return "\n".join(lines)
