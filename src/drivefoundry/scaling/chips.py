"""Accelerators, and the published arithmetic from EFLOPS to cards, modules and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drivefoundry.types import require

EXA, TERA, GIGA = 1e18, 1e12, 1e9

Name = Literal["A800", "H100", "910B", "own"]


@dataclass(frozen=True)
class Chip:
    """One card and its module (server). FLOP rates are dense bf16 peaks; costs are per module."""

    name: str
    tflops: float
    memory_gb: float
    memory_tb_s: float
    link_gb_s: float
    """To the other cards of its module, both directions together."""
    network_gbit_s: float
    """Out of the module, per card and direction."""
    module_cny: float
    watts: float
    """Per card, including its share of the module."""
    source: str
    cards: int = 8
    """Cards per module."""

    def validate(self) -> Chip:
        numbers = ("tflops", "memory_gb", "memory_tb_s", "link_gb_s", "network_gbit_s", "module_cny", "watts", "cards")
        for name in numbers:
            value = getattr(self, name)
            require(value > 0, f"chip.{name}: must be > 0, got {value:g}; give it with --set chip.{name}=...")
        return self


CHIPS: dict[str, Chip] = {
    "A800": Chip(
        "A800", 320.0, 80.0, 2.04, 400.0, 200.0, 0.95e6, 650.0,
        "320 TFLOPS and 0.95 M CNY a module as makers publish them (data sheet: 312); memory and links: data sheet",
    ),
    "H100": Chip(
        "H100", 989.0, 80.0, 3.35, 900.0, 400.0, 2.3e6, 1275.0,
        "data sheet of the SXM card; the price is an estimate: enter your own",
    ),
    "910B": Chip(
        "Ascend 910B", 313.0, 64.0, 1.6, 392.0, 200.0, 1.4e6, 600.0,
        "figures as commonly reported for the 910B3, and an estimated price: check them against your vendor's",
    ),
    "own": Chip("own chip", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "yours"),
}  # fmt: skip
"""`own` is all zeros: set every value."""


@dataclass(frozen=True)
class ChipFleet:
    """Cards for a peak of `eflops`, their modules, and their cost."""

    eflops: float
    cards: float
    modules: float
    cny: float


def fleet_of(eflops: float, chip: Chip) -> ChipFleet:
    """Cards, modules and CNY for peak EFLOPS, not rounded: 1 EFLOPS of A800 is 3,125 cards, 390.6 modules, 371 M."""
    require(eflops > 0, f"EFLOPS: must be > 0, got {eflops:g}")
    chip.validate()
    cards = eflops * EXA / (chip.tflops * TERA)
    return ChipFleet(eflops, cards, cards / chip.cards, cards / chip.cards * chip.module_cny)
