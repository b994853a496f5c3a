"""`plan`: cards, time, storage and cost of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from tyro.conf import arg

from drivefoundry.cli.options import Common
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class PlanOptions(Common):
    """What `plan` takes."""

    model: Annotated[str, arg(metavar="SIZE")] = "8B"
    """A size by name (0.3M ... 72B), or a number of parameters: 13B, 3e9."""
    clips: Annotated[float | None, arg(metavar="N", help_behavior_hint="(default: 30e6)")] = None
    """Clips in the training set."""
    days: Annotated[float | None, arg(metavar="N", help_behavior_hint="(default: 30)")] = None
    """Deadline, from which the number of cards follows."""
    cards: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Number of cards, from which the days follow."""
    eflops: Annotated[float | None, arg(metavar="N", help_behavior_hint="")] = None
    """Peak EFLOPS of a cluster: print only its cards, modules and cost."""
    chip: Literal["A800", "H100", "910B", "own"] = "A800"
    """The card; for `own`, set its figures with --set chip.tflops=... and so on."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change one assumption; the plan lists them all."""


def run(options: PlanOptions) -> Outcome:
    """`plan`: a table of the run's requirements."""
    given = [f"--{name}" for name in ("days", "cards", "eflops") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ValueError(f"plan: {' and '.join(given)}: give one of them")
    from drivefoundry.model import presets
    from drivefoundry.scaling import chips, plan, report, shape
    from drivefoundry.scaling.assumptions import Assumptions, Work
    from drivefoundry.settings import with_settings

    size = shape.size(options.model)
    work = Work() if size is None else Work.reading(presets.preset(size))
    if options.clips is not None:
        work = replace(work, clips=options.clips)
    assumed = Assumptions(shape.named(options.model), chips.CHIPS[options.chip], work)
    assumed = with_settings(assumed, options.set).validate()
    if options.eflops is not None:
        text = report.fleet_text(options.eflops, assumed.chip, assumed.cny_per_usd)
        return Outcome(text, asdict(chips.fleet_of(options.eflops, assumed.chip)))
    days = 30.0 if options.days is None and options.cards is None else options.days
    made = plan.plan(assumed, days, options.cards)
    return Outcome(report.plan_text(made, options.model.upper()), made.to_dict())
