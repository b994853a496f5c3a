"""The loop itself, top to bottom: cars record, clips come home, a model is trained, judged, signed, driven, and again.

Every step is one entry of the ledger: a second run does only what is not there yet or hangs on something that changed.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from drivefoundry import progress
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe
from drivefoundry.stages.making import Line, Reached
from drivefoundry.tracking import wanted as wanted_tracker

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source


def loop(line: Line, source: Source) -> None:
    """All turns. `source` says where exam and situations come from: the embedded city or recorded traffic."""
    from drivefoundry.stages import home, label, learn, score, ship

    exam = source.exam(line)
    baselines: list[Artefact] = []
    kept: Artefact | None = None
    base: Artefact | None = None
    student: Artefact | None = None
    release: Artefact | None = None
    car: Artefact | None = None
    shards: list[Artefact] = []
    for turn in range(1, line.recipe.loops + 1):
        drives = source.drives(line, turn, car)
        clips = home.ingest(line, turn, drives)
        kept = label.curated(line, turn, clips, exam, kept, source.exam_clips(exam))
        shards.append(label.shard(line, turn, clips, kept))
        if base is None:
            base = pretrained = learn.pretrained(line, shards)
        sft = learn.fine_tuned(line, turn, base, shards)
        rl = learn.reinforced(line, turn, sft, shards)
        student = learn.distilled(line, turn, rl, student, shards)
        engine = learn.quantised(line, turn, student, shards)
        baselines = baselines or score.baselines(line, source, exam)
        scored = [grade(line, turn, source, exam, baselines, engine) for grade in (score.engine, score.car)]
        if turn == line.recipe.loops:
            score.traffic(line, source, exam)
            models = {"student": student, "RL": rl, "SFT": sft, "pre-trained": pretrained}
            scored += [score.model(line, turn, source, exam, baselines, k, m) for k, m in models.items()]
        verdict = score.verdict(line, turn, scored, baselines)
        release = ship.release(line, turn, engine, verdict, release)
        car = ship.car(line, turn, release, car)
        base = rl


def camera(line: Line, folder: Path) -> None:
    """Real drives: clips, labels from the car's own motion, the fleet's model adapted to them, its errors on the last
    part of the drive."""
    from drivefoundry.stages import label, learn, openloop

    r = line.recipe
    real = replace(line, recipe=replace(r, curate=replace(r.curate, phases=r.camera.phases)))
    clips = openloop.imported(real, folder)
    kept = label.curated_by_time(real, clips)
    train, held_out = (label.shard(real, None, clips, kept, split) for split in ("train", "held_out"))
    openloop.scored(real, learn.adapted(real, fleet_base(line), train), held_out)


def fleet_base(line: Line) -> Artefact:
    """What the embedded fleet's first turn teaches a model that is to copy a driver: minutes of a real camera teach too
    little from scratch."""
    from drivefoundry.stages import home, label, learn, record

    r = line.recipe
    line = replace(line, recipe=replace(r, train=replace(r.train, ego_changes=True)))
    clips = home.ingest(line, 1, record.City().drives(line, 1, None))
    shard = label.shard(line, 1, clips, label.curated(line, 1, clips, None, None, []))
    return learn.pretrained(line, [shard], r.camera.action)


CAMERA_STAGES = ("import", "curate", "label", "train", "judge")
"""What `camera` goes through."""
BEFORE_RL = ("fleet", "ingest", "import", "curate", "label", "train")
"""Stages that need no model which can be reinforced."""


def run(
    recipe: Recipe,
    out: Path,
    *,
    until: str | None = None,
    drives: Path | None = None,
    scenes: Path | None = None,
    look: bool = False,
    track: str = "",
) -> Path:
    """The whole line under `out`, or as far as the verb `until`; returns the report's path.

    drives: a folder of real drives with a camera; scenes: a folder of recorded traffic; neither: the embedded city.
    look: make nothing but the report, of what is there. track: an experiment tracker besides, see `tracking`.
    """
    if drives and scenes:
        raise ValueError("--drives and --scenes: give one; a camera drive has no scene truth, a scene no camera")
    if drives and until not in (None, *CAMERA_STAGES):
        raise ValueError(f"{until}: camera drives have no scene truth to drive in; they go {', '.join(CAMERA_STAGES)}")
    recipe.validate()
    wanted_tracker(track)
    if not drives and until not in BEFORE_RL:
        recipe.reinforceable()
    start = time.monotonic()
    from drivefoundry.clips.importers.folder import wanted
    from drivefoundry.stages import record, tell
    from drivefoundry.stages.home import campaigns_of

    campaigns_of(recipe.campaigns)
    if drives:
        wanted(drives, "drives")  # what is refused here leaves no run directory behind
    source = None if drives else record.Recorded(scenes) if scenes else record.City()
    last = None if drives or until == "import" else recipe.loops
    if look and not (out / "ledger.db").exists():
        raise ValueError(f"{out}: no run is here; give the directory of one (--out)")
    with Ledger(out) as ledger:
        line = Line(ledger, recipe, out, until, last, look, track)
        with contextlib.suppress(Reached):
            if source:
                loop(line, source)
            elif drives:
                camera(line, drives)
        if look and not line.done:
            raise ValueError(f"{out}: nothing of this recipe is made here; give all options that its run was given")
        report = tell.report(line, source, drives)
    made, known = sum(a.made for _, _, a in line.done), len(line.done)
    seconds = time.monotonic() - start
    what = f"{made} of {known} artefacts made" if made else f"nothing to do, all {known} artefacts are up to date"
    progress.say(f"{what} ({seconds:.1f} s); report: {report}")
    return report
