"""Series on two linear or logarithmic axes as inline SVG, in the style of `reports.charts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from drivefoundry.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plain, round_numbers

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """One axis: its label and range."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, start: float, end: float) -> Callable[[float], float]:
        """Function from values to px."""
        f = math.log10 if self.log else float
        span = (f(self.high) - f(self.low)) or 1.0
        return lambda value: start + (f(value) - f(self.low)) / span * (end - start)

    def holds(self, value: float) -> bool:
        slack = 1e-9 * abs(self.high - self.low)
        return math.isfinite(value) and self.low - slack <= value <= self.high + slack

    def ticks(self, count: int) -> list[float]:
        if not self.log:
            return [t for t in round_numbers(self.low, self.high, count) if self.holds(t)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, round((last - first) / count))
        tens = [10.0**k for k in range(first, last + 1, every) if self.holds(10.0**k)]
        fine = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5) if self.holds(m * 10.0**k)]
        return tens if len(tens) >= 3 else fine

    def show(self, value: float) -> str:
        if self.percent:
            return f"{100 * value:.0f} %"
        if self.log and (value >= 1e6 or value < 1e-2):
            return f"{value:.0e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
        return plain(value)


@dataclass(frozen=True)
class Series:
    """Points drawn in one style. colour: one of the style sheet's eight; name: label at the end of a line, or in a
    dot's tooltip."""

    points: Points
    look: Literal["line", "dashed", "dots", "rings"] = "line"
    colour: int = 0
    name: str = ""
    bars: Sequence[tuple[float, float]] = ()
    """Low and high x of each point, if it has an interval."""


def plane(series: Sequence[Series], x: Axis, y: Axis, label: str, right: float = RIGHT) -> Markup:
    """Draw all series; anything outside the axes is left out. right: space for names of lines, px."""
    at_x, at_y = x.place(LEFT, WIDTH - right), y.place(HEIGHT - BOTTOM, TOP)
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - right}" y1="{at_y(t):.1f}" y2="{at_y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{at_y(t) + 4:.1f}" text-anchor="end">{y.show(t)}</text>'
        for t in y.ticks(5)
    ]
    parts += [
        f'<text class="tick" x="{at_x(t):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x.show(t)}</text>'
        for t in x.ticks(6)
    ]
    parts.append(
        f'<text class="axis" x="{WIDTH - right}" y="{HEIGHT - 2}" text-anchor="end">{escape(x.label)}</text>'
        f'<text class="axis" x="{LEFT}" y="12">{escape(y.label)}</text>'
    )
    for one in series:
        kept = [i for i, (a, b) in enumerate(one.points) if x.holds(a) and y.holds(b)]
        places = [(at_x(one.points[i][0]), at_y(one.points[i][1])) for i in kept]
        if one.look in ("line", "dashed"):
            parts.append(_line(one, places, WIDTH - right))
            continue
        for i, (a, b) in zip(kept, places, strict=True):
            tip = f"{one.name} {x.label} {x.show(one.points[i][0])}, {y.label} {y.show(one.points[i][1])}"
            parts.append(_dot(one, a, b, tip))
            if one.bars:
                low, high = (at_x(min(max(v, x.low), x.high)) for v in one.bars[i])
                bar = f'x1="{low:.1f}" x2="{high:.1f}" y1="{b:.1f}" y2="{b:.1f}"'
                parts.append(f'<line class="line s{one.colour}" {bar}/>')
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _line(one: Series, places: Points, edge: float) -> str:
    """A line, labelled where it leaves the drawing on the right, otherwise at its start."""
    if not places:
        return ""
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dash = ' stroke-dasharray="5 5"' if one.look == "dashed" else ""
    (a, b), down = (places[-1], 4) if places[-1][0] > edge - 8 else (places[0], 13)
    name = f'<text class="tick" x="{a + 6:.1f}" y="{b + down:.1f}">{escape(one.name)}</text>' if one.name else ""
    return f'<polyline class="line s{one.colour}"{dash} points="{path}"/>{name}'


def _dot(one: Series, a: float, b: float, tip: str) -> str:
    ring = one.look == "rings"
    fill = f'style="fill: var(--{"card" if ring else f"s{one.colour}"})" r="{6 if ring else 4}"'
    look = f' class="line s{one.colour}"' if ring else ""
    return f'<circle{look} {fill} cx="{a:.1f}" cy="{b:.1f}"><title>{escape(tip.strip())}</title></circle>'
