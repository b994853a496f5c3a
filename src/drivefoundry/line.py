"""The loop itself, top to bottom: cars record, clips come home, a model is trained, judged, signed and driven, and again.

Every step is one entry of the ledger, so a second run does only what is not there yet or hangs on something that changed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivefoundry import progress
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe

# What the result of each stage hangs on, besides its recipe and its parents: change the code and the stage is redone.
SIM = ("drivefoundry.sim", "drivefoundry.types", "drivefoundry.roadmap", "drivefoundry_car.inputs")
CAR = ("drivefoundry_car.engine", "drivefoundry_car.runtime", "drivefoundry_car.guard", "drivefoundry_car.codec")
LOG = ("drivefoundry_car.log", "drivefoundry_car.channels", "drivefoundry_car.video")
FLEET = ("drivefoundry.fleet", "drivefoundry.stages.record", *SIM, *LOG)
HOME = ("drivefoundry.ingest", "drivefoundry.clips", "drivefoundry.stages.home", "drivefoundry_car.record",
        "drivefoundry_car.trigger", "drivefoundry_car.upload", *LOG)  # fmt: skip
LABEL = ("drivefoundry.curate", "drivefoundry.label", "drivefoundry.route", "drivefoundry.stages.label", *LOG)
IMPORT = ("drivefoundry.clips", "drivefoundry.stages.openloop", "drivefoundry.roadmap", *LOG)
LEARN = ("drivefoundry.model", "drivefoundry.train", "drivefoundry.stages.learn", "drivefoundry_car.codec")
JUDGE = ("drivefoundry.judge", "drivefoundry.stages.score", *SIM)
SHIP = ("drivefoundry.release", "drivefoundry.stages.ship", "drivefoundry_car.update", "drivefoundry_car.slots")


class Reached(Exception):
    """The stage that the user asked for is made."""


@dataclass
class Line:
    """What one run has at hand, and what it has made so far: (turn, kind, artefact) in order."""

    ledger: Ledger
    recipe: Recipe
    out: Path
    until: str | None = None
    done: list[tuple[int | None, str, Artefact]] = field(default_factory=list)

    @property
    def store(self) -> str:
        """Where the clips are: a local directory."""
        return str(self.out / "clips")

    def make(self, turn: int | None, verb: str, kind: str, recipe: Any, parents: Sequence[Artefact], code: tuple[str, ...], build: Callable) -> Artefact:  # fmt: skip
        """One ledger entry, told to the user; `verb` is the command line's name for it."""
        artefact = self.ledger.make(kind, {"turn": turn, "recipe": recipe}, parents, code, build)
        self.done.append((turn, kind, artefact))
        if artefact.made:
            name = kind.replace("_", " ") + (f" {recipe['policy']}" if isinstance(recipe, dict) and "policy" in recipe else "")
            progress.say(f"{'turn ' + str(turn) if turn else '':7}{name:<34}{artefact.seconds:6.1f} s   {_told(artefact.info)}")
        if verb == self.until and turn in (None, self.recipe.loops):
            raise Reached
        return artefact


def _told(info: dict) -> str:
    plain = {k: v for k, v in info.items() if isinstance(v, (int, float, str)) and not isinstance(v, bool)}
    return ", ".join(f"{k.replace('_', ' ')} {v:.3g}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v}" for k, v in list(plain.items())[:6])  # fmt: skip


def loop(line: Line, source: Any) -> None:
    """All turns. `source` (stages.record) says where exam and situations come from: the embedded city or recorded scenes."""
    from drivefoundry.stages import label, learn, score, ship
    from drivefoundry.stages.home import send_home

    r, make, store = line.recipe, line.make, line.store
    exam = source.exam(line)

    def drives(turn: int | None, name: str, policy: Callable, parents: list[Artefact], code: tuple[str, ...] = ()) -> Artefact:
        """One policy through the exam."""
        goal = [yard] if name != score.YARDSTICK else []
        return make(turn, "judge", "score", {"policy": name, "judge": r.judge}, [exam, *goal, *parents], (*JUDGE, *code),
                    lambda d: score.score(policy(), source.exam_scenes(line, exam), r.judge, goal[0].path if goal else None, d))  # fmt: skip

    yard = drives(None, score.YARDSTICK, score.route_follower, [])
    marks = [yard, drives(None, "constant velocity", score.constant_velocity, []), drives(None, "log replay", score.log_replay, [])]
    base: Artefact | None = None
    curated: Artefact | None = None
    student: Artefact | None = None
    release: Artefact | None = None
    car: Artefact | None = None
    shards: list[Artefact] = []
    for n in range(1, r.loops + 1):
        recorded = source.drives(line, n, car)
        clips = make(n, "ingest", "ingest", {"seed": r.fleet.seed}, [recorded], HOME, lambda d: send_home(recorded.path, store, r.fleet.seed, d))
        before = [curated] if curated else []
        curated = make(n, "curate", "curate", r.curate, [clips, exam, *before], LABEL,
                       lambda d: label.curate_clips(r.curate, store, clips.path, before[0].path if before else None, source.exam_clips(exam), "place", d))  # fmt: skip
        shards.append(make(n, "label", "label", r.curate, [clips, curated], LABEL,
                           lambda d: label.label_clips(r.curate, store, clips.path, curated.path, "train", d)))  # fmt: skip
        data = [s.path for s in shards]
        if base is None:
            base = make(n, "train", "pretrain", r.train, shards, LEARN, lambda d: learn.pretrain(r.train, data, d))
        sft = make(n, "train", "sft", r.train, [base, *shards], LEARN, lambda d: learn.sft(r.train, n, base.path, data, d))
        rl = make(n, "rl", "rl", r.rl, [sft, *shards], ("drivefoundry.rl", *LEARN, *JUDGE), lambda d: learn.reinforce(r.rl, store, sft.path, data, d))
        old = [student] if student else []
        student = make(n, "distill", "distil", r.distil, [rl, *old, *shards], LEARN,
                       lambda d: learn.distil(r.distil, rl.path, old[0].path if old else None, data, d))  # fmt: skip
        engine = make(n, "shrink", "shrink", {}, [student, *shards], ("drivefoundry.shrink", *LEARN, *CAR), lambda d: learn.quantise(student.path, data, d))
        mine = [drives(n, "int8 engine", lambda: score.engine(engine.path), [engine], CAR)]
        if n == r.loops:
            mine.append(drives(n, "car (engine and guard)", lambda: score.car(engine.path, r.judge.films), [engine], CAR))
            for name, model in {"student": student, "RL": rl, "SFT": sft, "pre-trained": base if n == 1 else first}.items():
                mine.append(drives(n, name, lambda m=model, k=name: score.torch_policy(m.path, k), [model], LEARN))
        first = base if n == 1 else first
        verdict = make(n, "judge", "verdict", r.judge, [*mine, *marks], JUDGE, lambda d: score.verdict(r.judge, [a.path for a in (*mine, *marks)], d))
        ago = [release] if release else []
        release = make(n, "release", "release", {}, [engine, verdict, *ago], SHIP,
                       lambda d: ship.sign_release(engine.path, verdict.path, ago[0].path if ago else None, line.out / "keys", f"turn-{n}", d))  # fmt: skip
        parked = [car] if car else []
        car = make(n, "car", "car", {}, [release, *parked], SHIP, lambda d: ship.update_car(release.path, parked[0].path if parked else None, d))
        base = rl


def camera(line: Line, folder: Path) -> None:
    """Real drives in: clips, curation, labels from the car's own motion, a model, and its errors on the last part of the drive."""
    from drivefoundry.clips.importers import folder as importers
    from drivefoundry.stages import label, learn, openloop

    r, make, store = line.recipe, line.make, line.store
    source = {"folder": importers.fingerprint(folder)}
    clips = make(None, "import", "import", source, [], IMPORT, lambda d: openloop.import_drives(folder, store, d))
    curated = make(None, "curate", "curate", r.curate, [clips], LABEL, lambda d: label.curate_clips(r.curate, store, clips.path, None, [], "time", d))
    shards = {
        split: make(None, "label", "label", {"curate": r.curate, "split": split}, [clips, curated], LABEL,
                    lambda d, s=split: label.label_clips(r.curate, store, clips.path, curated.path, s, d))
        for split in ("train", "held_out")
    }  # fmt: skip
    data = [shards["train"].path]
    model = make(None, "train", "pretrain", r.train, [shards["train"]], LEARN, lambda d: learn.pretrain(r.train, data, d))
    make(None, "judge", "open_loop", {}, [model, shards["held_out"]], JUDGE, lambda d: openloop.score(model.path, shards["held_out"].path, d))


def run(recipe: Recipe, out: Path, *, until: str | None = None, drives: Path | None = None, scenes: Path | None = None) -> Path:
    """The whole line under `out`, or as far as the verb `until`; returns the report's path.

    drives: a folder of real drives with a camera; scenes: a folder of recorded traffic; neither: the embedded city.
    """
    from drivefoundry.stages import record, tell

    if drives and scenes:
        raise ValueError("--drives and --scenes: one of them; a camera drive has no scene truth, a scene no camera")
    start = time.monotonic()
    with Ledger(out) as ledger:
        line = Line(ledger, recipe, out, until)
        source = None if drives else record.Recorded(scenes) if scenes else record.City()
        with contextlib.suppress(Reached):
            camera(line, drives) if drives else loop(line, source)
        report = tell.write(line, source, drives)
    made = sum(a.made for _, _, a in line.done)
    if made == 0:
        progress.say(f"nothing to do: all {len(line.done)} artefacts are up to date ({time.monotonic() - start:.1f} s)")
    else:
        progress.say(f"{made} of {len(line.done)} artefacts made in {time.monotonic() - start:.0f} s")
    progress.say(f"report: {report}")
    return report
