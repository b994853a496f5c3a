"""Compile rule trees into one straight-line program in which shared operations occur once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivefoundry_car.triggers.rules import FLAG, Node

OPS = (
    "number", "signal", "flag", "+", "-", "*", "/", "abs", "minus", "<", "<=", ">", ">=", "not", "and", "or", "for",
    "rising", "falling", "until", "max", "min", "mean", "delta", "count",
)  # fmt: skip
"""Operations in the order of `Op` in rules.h."""
STEP = np.dtype([("op", np.int32), ("a", np.int32), ("b", np.int32), ("value", np.float64)], align=True)


@dataclass(frozen=True)
class Program:
    """steps (N,) STEP: step i writes slot i and reads slots below i; rules (R,) int32: each rule's slot; signals: names
    of the rows of values."""

    steps: np.ndarray
    rules: np.ndarray
    signals: tuple[str, ...]


def program(trees: Sequence[Node], signals: Sequence[str]) -> Program:
    """Compile checked rules over these signals, in this order."""
    slot: dict[tuple[str, int, int, float], int] = {}
    row = {name: i for i, name in enumerate(signals)}

    def place(op: str, a: int = 0, b: int = 0, value: float = 0.0) -> int:
        return slot.setdefault((op, a, b, value), len(slot))

    def lay(node: Node) -> int:
        if node.op == "signal":
            return place("flag" if node.type == FLAG else "signal", row[node.signal])
        inner = [lay(a) for a in node.args]
        if node.op == "range":
            most, least = (place(op, inner[0], value=node.value) for op in ("max", "min"))
            return place("-", most, least)
        return place(node.op, *inner, value=node.value)

    rules = np.array([lay(tree) for tree in trees], np.int32)
    steps = np.array([(OPS.index(op), a, b, value) for op, a, b, value in slot], STEP)
    return Program(steps, rules, tuple(signals))
