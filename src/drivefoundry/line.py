"""The loop itself, top to bottom: cars record, clips come home, a model is trained, judged, signed and driven, and again.

Every step is one entry of the ledger, so a second run does only what is not there yet or hangs on something that changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drivefoundry import progress
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe

SIM = ("drivefoundry.sim", "drivefoundry.types", "drivefoundry.roadmap", "drivefoundry_car.inputs")
LOGS = ("drivefoundry_car.log", "drivefoundry_car.mcap_io", "drivefoundry_car.video")
FLEET = ("drivefoundry.fleet", "drivefoundry.stages.record", *SIM, *LOGS)
HOME = ("drivefoundry.ingest", "drivefoundry.clips", "drivefoundry.stages.home", "drivefoundry_car.record", "drivefoundry_car.trigger", *LOGS)
LABEL = ("drivefoundry.label", "drivefoundry.curate", "drivefoundry.stages.label", "drivefoundry.route")
MODEL = ("drivefoundry.model", "drivefoundry.train", "drivefoundry.stages.learn", "drivefoundry_car.codec")
JUDGE = ("drivefoundry.judge", "drivefoundry.stages.score", *SIM)
CAR = ("drivefoundry_car.engine", "drivefoundry_car.runtime", "drivefoundry_car.guard")
SHIP = ("drivefoundry.release", "drivefoundry.stages.ship", "drivefoundry_car.update")


class Reached(Exception):
    """The stage that the user asked for is made."""


@dataclass
class Line:
    """What one run has at hand and has made so far."""

    ledger: Ledger
    recipe: Recipe
    out: Path
    until: str | None = None
    made: list[tuple[int | None, str, Artefact]] = field(default_factory=list)

    @property
    def store(self) -> str:
        return str(self.out / "clips")

    def make(
        self, turn: int | None, verb: str, kind: str, recipe: Any, parents: list[Artefact], code: tuple[str, ...], build: Callable
    ) -> Artefact:
        """One ledger entry, told to the user; `verb` is the command that ends here."""
        name = kind if turn is None else f"turn {turn}  {kind}"
        artefact = self.ledger.make(kind, {"turn": turn, "recipe": recipe}, parents, code, build)
        self.made.append((turn, kind, artefact))
        if artefact.made:
            progress.say(f"{name:<26} {artefact.seconds:6.1f} s  {_told(artefact.info)}")
        if verb == self.until and (turn is None or turn == self.recipe.loops):
            raise Reached
        return artefact


def _told(info: dict) -> str:
    plain = {k: v for k, v in info.items() if isinstance(v, (int, float, str)) and not isinstance(v, bool)}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(plain.items())[:5])


def loop(line: Line, source: Any) -> None:
    """Every turn of the loop. `source` says where situations come from: the embedded city, or recorded scenes."""
    from drivefoundry.stages import label, learn, score, ship
    from drivefoundry.stages.home import send_home

    r = line.recipe
    exam = source.exam(line)
    yardstick = score.baselines(line, exam, JUDGE)
    shards: list[Artefact] = []
    base = student = shipped = car = None
    for turn in range(1, r.loops + 1):
        drives = source.drives(line, turn, car)
        clips = line.make(
            turn, "ingest", "ingest", {"seed": r.fleet.seed}, [drives], HOME,
            lambda d, a=drives: send_home(a.path, line.store, r.fleet.seed, d),
        )  # fmt: skip
        kept = line.make(
            turn, "curate", "curate", r.curate, [clips, exam, *shards], LABEL,
            lambda d, a=clips: label.curate_clips(r.curate, line.store, a.path, exam.path, d),
        )  # fmt: skip
        shards.append(
            line.make(turn, "label", "label", r.curate, [kept], LABEL, lambda d, a=kept: label.label_clips(r.curate, line.store, a.path, d))
        )
        data = [s.path for s in shards]
        if base is None:
            base = line.make(turn, "train", "pretrain", r.train, shards, MODEL, lambda d: learn.pretrain(r.train, data, d))
        sft = line.make(
            turn, "train", "sft", r.train, [base, *shards], MODEL, lambda d, b=base: learn.sft(r.train, turn, b.path, data, d)
        )
        rl = line.make(
            turn, "rl", "rl", r.rl, [sft, *shards], (*MODEL, *JUDGE, "drivefoundry.rl"),
            lambda d, b=sft: learn.reinforce(r.rl, line.store, b.path, data, d),
        )  # fmt: skip
        before = [student] if student else []
        student = line.make(
            turn, "distill", "distil", r.distil, [rl, *before, *shards], MODEL,
            lambda d, t=rl, s=student: learn.distil(r.distil, t.path, s.path if s else None, data, d),
        )  # fmt: skip
        engine = line.make(
            turn, "shrink", "shrink", {}, [student, *shards], ("drivefoundry.shrink", *MODEL, *CAR),
            lambda d, s=student: learn.quantise(s.path, data, d),
        )  # fmt: skip
        last = turn == r.loops
        scored = score.candidates(line, turn, exam, yardstick, engine, {"student": student, "RL": rl, "SFT": sft, "pre-trained": base} if last and turn == 1 else {}, (*JUDGE, *CAR, *MODEL))
        base = rl
