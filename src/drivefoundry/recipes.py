"""Named configurations of the whole line, as functions: `default()` is what `drivefoundry run` does, `tiny()` a smoke.

A recipe is a tree of the configurations that stand beside what they configure; `--set pretrain.steps=800` reaches any
of their fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from drivefoundry import embodiments
from drivefoundry.bounds import in_range, validate_parts
from drivefoundry.curate.config import CurateConfig
from drivefoundry.fleet.config import FleetConfig
from drivefoundry.judge.config import JudgeConfig
from drivefoundry.model.config import ModelConfig
from drivefoundry.rl.config import GrpoConfig
from drivefoundry.scaling.config import GridConfig
from drivefoundry.seeds import MAX_SEED
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.train.config import AdaptConfig, DistilConfig, PretrainConfig, SftConfig, ValidationConfig
from drivefoundry.types import require


@dataclass(frozen=True)
class Recipe:
    name: str
    seed: int = 1
    """Seed of everything random in a run (`seeds.derive`). The `seed` of a part varies that part alone."""
    loops: int = 3
    campaigns: str = ""
    """A file of campaigns (TOML) in addition to those that ship; it replaces shipped ones with the same name."""
    embodiment: str = "car"
    """The vehicle that is recorded, trained for and judged: a name of `embodiments`, or a .json file."""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    perception: Perception = field(default_factory=Perception)
    """What simulated cars with a guard perceive of other road users."""
    curate: CurateConfig = field(default_factory=CurateConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rl: GrpoConfig = field(default_factory=GrpoConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    camera: AdaptConfig = field(default_factory=AdaptConfig)
    scale: GridConfig = field(default_factory=GridConfig)

    def validate(self) -> Recipe:
        """Check every field; return self. ValueError names the offending key."""
        plain = bool(self.name.strip()) and self.name.isprintable()
        require(plain, f"name: must be text on one line, got {self.name!r}")
        in_range(self, 0, MAX_SEED, "seed")
        in_range(self, 1, 1000, "loops")
        for name in ("pretrain", "sft", "distil", "camera"):
            timed = getattr(self, name).seconds
            why = "a training that ends by the clock cannot be repeated"
            require(timed == 0, f"{name}.seconds: must be 0, got {timed:g}: {why}; set {name}.steps")
        validate_parts(self)
        key = "embodiment"
        try:
            embodiments.named(self.embodiment)
            key = "campaigns"
            if self.campaigns:
                from drivefoundry_car.triggers import load_campaigns

                load_campaigns(self.campaigns)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        return self

    def reinforceable(self) -> Recipe:
        """Return self; ValueError if reinforcement cannot sample the model's plans. Does not read weights."""
        action, where = self.pretrain.action, "pretrain.action: flow"
        folder = Path(self.pretrain.backbone or "")
        if (folder / "codebook.safetensors").is_file():
            action = ModelConfig.from_json((folder / "config.json").read_bytes(), folder / "config.json").action
            where = f"pretrain.backbone: {folder}"
        require(
            action == "codes",
            f"{where}: rl cannot sample plans of a flow head; set or import with "
            "action codes (`drivefoundry model import --action codes`), or end with `drivefoundry run --until train`",
        )
        return self


def default() -> Recipe:
    """Three turns of the loop, sized for two cores."""
    return Recipe("default")


def tiny() -> Recipe:
    """Every stage at a size that shows that the line works, not that the model drives: about a minute."""
    return Recipe(
        "tiny",
        loops=2,
        fleet=FleetConfig(
            places=("place_a",), cars=6, seconds=60, held_out_seconds=60, traffic=40, pedestrians=20, outings=12
        ),
        curate=CurateConfig(phases=1),
        pretrain=PretrainConfig(size="0.3M", batch=32, steps=20),
        sft=SftConfig(batch=32, steps=8, turn_steps=10),
        rl=GrpoConfig(steps=2, states=8, samples=8),
        distil=DistilConfig(steps=15, turn_steps=10, batch=32, polish_steps=2),
        judge=JudgeConfig(scenes=12, films=1, worst=2),
        camera=AdaptConfig(batch=32, steps=20),
        scale=GridConfig(sizes=("0.1M", "0.3M", "1M"), samples=(64, 128, 256), batch=16, scenes=4),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "tiny": tiny}


def named(name: str) -> Recipe:
    """The recipe of that name. ValueError lists the known ones."""
    if name not in RECIPES:
        raise ValueError(f"--recipe {name}: unknown; known are {', '.join(RECIPES)}, or a TOML file")
    return RECIPES[name]()
