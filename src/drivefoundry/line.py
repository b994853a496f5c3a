"""The loop itself, top to bottom: cars record, clips come home, a model is trained, judged, signed, driven, and again.

Every step is one entry of the ledger: a second run does only what is not there yet or hangs on something that changed.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from drivefoundry import progress
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe
from drivefoundry.stages.making import Line, Reached

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source


def loop(line: Line, source: Source) -> None:
    """All turns. `source` says where exam and situations come from: the embedded city or recorded traffic."""
    from drivefoundry.stages import home, label, learn, score, ship

    exam = source.exam(line)
    baselines = score.baselines(line, source, exam)
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
        scored = [score.engine(line, turn, source, exam, baselines, engine)]
        if turn == line.recipe.loops:
            scored.append(score.car(line, turn, source, exam, baselines, engine))
            models = {"student": student, "RL": rl, "SFT": sft, "pre-trained": pretrained}
            scored += [score.model(line, turn, source, exam, baselines, k, m) for k, m in models.items()]
        verdict = score.verdict(line, turn, scored, baselines)
        release = ship.release(line, turn, engine, verdict, release)
        car = ship.car(line, turn, release, car)
        base = rl


def camera(line: Line, folder: Path) -> None:
    """Real drives: clips, labels from the car's own motion, a model, its errors on the last part of the drive."""
    from drivefoundry.stages import label, learn, openloop

    clips = openloop.imported(line, folder)
    kept = label.curated_by_time(line, clips)
    train, held_out = (label.shard(line, None, clips, kept, split) for split in ("train", "held_out"))
    openloop.scored(line, learn.pretrained(line, [train]), held_out)


def run(
    recipe: Recipe, out: Path, *, until: str | None = None, drives: Path | None = None, scenes: Path | None = None
) -> Path:
    """The whole line under `out`, or as far as the verb `until`; returns the report's path.

    drives: a folder of real drives with a camera; scenes: a folder of recorded traffic; neither: the embedded city.
    """
    if drives and scenes:
        raise ValueError("--drives and --scenes: give one; a camera drive has no scene truth, a scene no camera")
    start = time.monotonic()
    from drivefoundry.clips.importers.folder import wanted
    from drivefoundry.stages import record, tell

    if drives:
        wanted(drives, "drives")  # what is refused here leaves no run directory behind
    source = None if drives else record.Recorded(scenes) if scenes else record.City()
    with Ledger(out) as ledger:
        line = Line(ledger, recipe, out, until)
        with contextlib.suppress(Reached):
            if source:
                loop(line, source)
            elif drives:
                camera(line, drives)
        report = tell.report(line, source, drives)
    made, known = sum(a.made for _, _, a in line.done), len(line.done)
    seconds = time.monotonic() - start
    what = f"{made} of {known} artefacts made" if made else f"nothing to do, all {known} artefacts are up to date"
    progress.say(f"{what} ({seconds:.1f} s); report: {report}")
    return report
