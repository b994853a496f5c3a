"""Named configurations of the whole line, as functions: `default()` is what `drivefoundry run` does, `tiny()` a smoke.

A recipe is a tree of frozen dataclasses of plain values; `--set train.pretrain_steps=800` reaches any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from drivefoundry import embodiments
from drivefoundry.judge.release_gates import ReleaseGates
from drivefoundry.model.config import Action, ModelConfig
from drivefoundry.model.presets import FROM_NOTHING
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.types import require

MARGINS = tuple(f"judge.gates.{name}" for name in (
    "collisions", "previous", "previous_collisions", "suite", "distil", "distil_collisions", "quantise",
    "quantise_collisions",
))  # fmt: skip
LEAST: Mapping[str, float] = {
    "fleet.seconds": 20, "fleet.held_out_seconds": 20,
    "fleet.val_seconds": 20, "validation.patience": 0, "fleet.outing_seconds": 6, "judge.seconds": 4, "rl.samples": 2,
    "judge.gates.over_baseline": -1,
} | dict.fromkeys(
    ("fleet.traffic", "fleet.pedestrians", "weight_decay", "forget", "blind", "shake", "reasoned", "turn_reasoned",
     "kl", "anchor", "trial", "teacher", "polish_steps", "films", "worst", "seed", *MARGINS), 0,
)  # fmt: skip
"""Key, or the last part of one -> the least value of it that some stage can work with; of other numbers any above 0. A
recording shorter than a clip gives none; curation drops clips under 6 s; a plan reaches 4 s."""
MOST: Mapping[str, float] = {
    "loops": 1000, "cars": 1000, "traffic": 10_000, "pedestrians": 10_000, "outings": 100_000, "batch": 65_536,
    "seconds": 3600, "held_out_seconds": 3600,
    "val_seconds": 3600, "val_cars": 1000, "outing_seconds": 600, "judge.seconds": 600, "phases": 5, "shake": 32,
    "samples": 1024, "scenes": 1_000_000, "trial": 1_000_000, "films": 100, "worst": 100, "temperature": 100, "kl": 100,
    "anchor": 100, "seed": 2_000_000_000,
} | dict.fromkeys(
    ("duplicate_similarity", "forget", "blind", "reasoned", "turn_reasoned", "new_share", "teacher", "over_baseline",
     "weight_decay", "rate", "backbone_rate", "pretrain_rate", "sft_rate", "polish_rate", *MARGINS), 1,
) | dict.fromkeys(
    ("steps", "turn_steps", "pretrain_steps", "sft_steps", "polish_steps"), 100_000_000,
)  # fmt: skip
"""Key, or the last part of one -> its greatest value: shares and learning rates end at 1, a picture is 64 pixels high;
counts end where no machine could hold what they ask for."""


@dataclass(frozen=True)
class Fleet:
    """The embedded fleet: SUMO cities, and how long how many cars drive in them."""

    places: tuple[str, ...] = ("place_a", "place_b", "place_c")
    held_out: str = "place_d"
    val: str = "place_e"
    """Place of the validation samples, on which trainings are measured while they run."""
    val_cars: int = 4
    val_seconds: int = 60
    cars: int = 24
    """Recording cars in each place."""
    seconds: int = 140
    """Recorded driving a car, s."""
    held_out_seconds: int = 200
    traffic: int = 65
    """Other vehicles in each place."""
    pedestrians: int = 100
    seed: int = 1
    outings: int = 320
    """Situations that cars drive with the last release under a safety driver, in each later turn."""
    outing_seconds: float = 18.0


@dataclass(frozen=True)
class Measure:
    """How trainings are measured on validation samples: see train.validation.Validation."""

    samples: int = 256
    times: int = 3
    """Measurements in each training, evenly spaced, besides the one at its end."""
    keep_best: bool = False
    patience: int = 0


@dataclass(frozen=True)
class Curate:
    duplicate_similarity: float = 0.92
    phases: int = 2
    """Decision grids labelled per clip, shifted within the 0.5 s between decisions."""


@dataclass(frozen=True)
class Train:
    size: str = "4M"
    backbone: str | None = None
    """A language model to build the model around, in place of one of `size` from nothing: "smollm2", a .gguf file, a
    Hugging Face directory, or what `drivefoundry model import` wrote."""
    backbone_rate: float = 3e-4
    """Highest learning rate of pre-training and fine-tuning where there is one, both by AdamW."""
    batch: int = 64
    pretrain_steps: int = 450
    pretrain_rate: float = 4e-3
    weight_decay: float = 0.1
    forget: float = 0.5
    """Share of pre-training samples that see the present ego state alone, not its history."""
    ego_changes: bool = False
    """See model.config.ModelConfig."""
    sft_steps: int = 90
    """Supervised fine-tuning with reasoning, in the first turn."""
    turn_steps: int = 260
    """The same in each later turn, which also learns the new clips."""
    sft_rate: float = 2e-3
    reasoned: float = 0.5
    """Share of the first turn's fine-tuning samples that carry their reasoning."""
    turn_reasoned: float = 0.2
    """The same in later turns: with the reasoning in sight, actions are learnt from it rather than from the picture."""
    new_share: float = 0.5
    """Share of a later turn's samples that comes from cars which a model drove."""
    seed: int = 1


@dataclass(frozen=True)
class Camera:
    """How the fleet's base model learns on from minutes of a real camera; blind, shake: see train.corpus.Augment."""

    action: Action = "flow"
    """How a plan leaves the model, its base too. At speed the codes' curvatures lie too far apart for a yaw rate."""
    batch: int = 64
    steps: int = 80
    rate: float = 1e-3
    weight_decay: float = 0.1
    forget: float = 0.0
    blind: float = 0.5
    shake: int = 8
    phases: int = 5
    """As in Curate, for the part that is learnt."""
    seed: int = 1


@dataclass(frozen=True)
class Rl:
    steps: int = 80
    scenes: int = 32
    """Situations a step."""
    samples: int = 8
    """Plans sampled for each situation."""
    rate: float = 1e-4
    kl: float = 0.03
    anchor: float = 0.5
    """Weight of the behaviour-cloning loss beside the policy gradient."""
    temperature: float = 1.0
    reward: str = "EPDMS"
    """PDMS or EPDMS (judge.pdm)."""
    trial: int = 256
    """Situations kept apart, on which the reinforced model must not be worse than before."""


@dataclass(frozen=True)
class Distil:
    size: str = "0.3M"
    steps: int = 500
    turn_steps: int = 300
    batch: int = 128
    rate: float = 4e-3
    teacher: float = 0.9
    """Share of the loss that comes from the teacher's logits; the rest from the labels."""
    polish_steps: int = 220
    """Steps of reinforcement on the student's own plans, after the teacher's."""
    polish_rate: float = 3e-4
    new_share: float = 0.5
    """As in Train."""


@dataclass(frozen=True)
class Judge:
    scenes: int = 240
    """Held-out scenes at most."""
    seconds: float = 18.0
    films: int = 4
    worst: int = 6
    """Worst scenes of each release that the report lists and shows."""
    float_scenes: int = 128
    """Of these, the first so many that teacher and float student drive in each turn, for the gates of compression."""
    gates: ReleaseGates = field(default_factory=ReleaseGates)


@dataclass(frozen=True)
class Scale:
    """The grid of the scaling law: every size with every amount of data, each sample seen once."""

    sizes: tuple[str, ...] = ("0.1M", "0.3M", "1M", "4M", "16M")
    samples: tuple[int, ...] = (1_250, 2_500, 5_000, 10_000, 20_000)
    batch: int = 64
    rate: float = 4e-3
    """Of the 4M model; others take it times the square root of 320 / width."""
    scenes: int = 64
    """Held-out scenes that each model drives."""
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    name: str
    loops: int = 3
    campaigns: str = ""
    """A file of campaigns (TOML) that the cars have besides those that ship; one of the same name takes its place."""
    embodiment: str = "car"
    """The vehicle that is recorded, trained for and judged: a name of `embodiments`, or a .json file."""
    fleet: Fleet = field(default_factory=Fleet)
    curate: Curate = field(default_factory=Curate)
    validation: Measure = field(default_factory=Measure)
    train: Train = field(default_factory=Train)
    rl: Rl = field(default_factory=Rl)
    perception: Perception = field(default_factory=Perception)
    """What simulated cars with a guard know of other road users."""
    distil: Distil = field(default_factory=Distil)
    judge: Judge = field(default_factory=Judge)
    camera: Camera = field(default_factory=Camera)
    scale: Scale = field(default_factory=Scale)

    def validate(self) -> Recipe:
        """Itself, or ValueError naming the key whose value no stage could work with."""
        require(
            bool(self.name.strip()) and self.name.isprintable(), f"name: must be text on one line, got {self.name!r}"
        )
        for key, value in leaves(self):
            if type(value) in (int, float) and not key.startswith("perception."):
                _in_bounds(key, value)
            if key.endswith(".size"):
                _one_of(key, value, FROM_NOTHING)
        self._fleet()
        self.judge.gates.validate()
        self.perception.validate()
        _one_of("rl.reward", self.rl.reward, ("PDMS", "EPDMS"))
        _distinct("scale.sizes", self.scale.sizes)
        _distinct("scale.samples", self.scale.samples)
        for size in self.scale.sizes:
            _one_of("scale.sizes", size, FROM_NOTHING)
        least, most = self.scale.batch, 1_000_000_000
        for n in self.scale.samples:
            require(
                least <= n <= most, f"scale.samples: each must be from scale.batch ({least}) to {most:,}, got {n:,}"
            )
        self._files()
        return self

    def _files(self) -> None:
        key = "embodiment"
        try:
            embodiments.named(self.embodiment)
            key = "campaigns"
            if self.campaigns:
                from drivefoundry_car.triggers import load_campaigns

                load_campaigns(self.campaigns)
            key = "train.backbone"
            if self.train.backbone is not None:
                from drivefoundry.model.backbones.load import backbone_path  # torch comes in here, and only then

                backbone_path(self.train.backbone)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    def _fleet(self) -> None:
        from drivefoundry.fleet.places import PLACES

        f = self.fleet
        _distinct("fleet.places", f.places)
        for place in f.places:
            _one_of("fleet.places", place, PLACES)
        _one_of("fleet.held_out", f.held_out, PLACES)
        _one_of("fleet.val", f.val, PLACES)
        require(f.val not in (*f.places, f.held_out), f"fleet.val: {f.val!r} is trained on or examined; name another")
        require(f.held_out not in f.places, f"fleet.held_out: {f.held_out!r} is one of fleet.places; hold out another")

    def reinforceable(self) -> Recipe:
        """Itself, or ValueError where reinforcement could not sample its model's plans; weights are not read."""
        folder = Path(self.train.backbone or "")
        if (folder / "codebook.safetensors").is_file():
            action = ModelConfig.from_json((folder / "config.json").read_bytes(), folder / "config.json").action
            require(
                action == "codes",
                f"train.backbone: plans of {folder} come from a flow head, which rl cannot sample; import it with "
                "`drivefoundry model import --action codes`, or end with `drivefoundry run --until train`",
            )
        return self


def _in_bounds(key: str, value: float) -> None:
    name = key.rpartition(".")[2]
    least, most = (bounds.get(key, bounds.get(name)) for bounds in (LEAST, MOST))
    above = value > 0 if least is None else value >= least
    require(above, f"{key}: must be {'> 0' if least is None else f'at least {least:g}'}, got {value}")
    require(most is None or value <= most, f"{key}: must be at most {most}, got {value}")


def _one_of(key: str, value: str, known: Collection[str]) -> None:
    require(value in known, f"{key}: {value!r} is not one of {', '.join(known)}")


def _distinct(key: str, values: tuple[Any, ...]) -> None:
    require(len(values) > 0, f"{key}: give at least one")
    require(len({*values}) == len(values), f"{key}: {', '.join(map(str, values))}: one of them is given twice")


def leaves(recipe: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a recipe, as `--set` takes it, and its value."""
    for field_ in fields(recipe):
        value = getattr(recipe, field_.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field_.name}.")
        else:
            yield f"{prefix}{field_.name}", value


def default() -> Recipe:
    """Three turns within 15 minutes on two cores."""
    return Recipe("default")


def tiny() -> Recipe:
    """Every stage at a size that proves the line works, not that the model drives: about a minute."""
    return Recipe(
        "tiny",
        loops=2,
        fleet=Fleet(
            places=("place_a",), cars=6, seconds=60, held_out_seconds=60, traffic=40, pedestrians=20, outings=12
        ),
        curate=Curate(phases=1),
        camera=Camera(batch=32, steps=20),
        train=Train(size="0.3M", batch=32, pretrain_steps=20, sft_steps=8, turn_steps=10),
        rl=Rl(steps=2, scenes=8, samples=8),
        distil=Distil(steps=15, turn_steps=10, batch=32, polish_steps=2),
        judge=Judge(scenes=12, films=1, worst=2),
        scale=Scale(sizes=("0.1M", "0.3M", "1M"), samples=(64, 128, 256), batch=16, scenes=4),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "tiny": tiny}


def named(name: str) -> Recipe:
    """The recipe of that name; ValueError names the known ones."""
    if name not in RECIPES:
        raise ValueError(f"--recipe {name}: unknown; known are {', '.join(RECIPES)}, or a TOML file")
    return RECIPES[name]()
