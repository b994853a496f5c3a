"""Charts as inline SVG. All text is escaped; colours come from the page's style sheet, by class.

Plotting libraries were larger and follow no style sheet (docs/log.md has figures).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from drivefoundry.reports.content import Interval

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 28, 34
MOST_POINTS = 400
"""Maximum number of points in a line: about one per pixel."""


def plain(value: float) -> str:
    """Format a number with three significant digits, as short as possible."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "n/a"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float) -> str:
    return f"{100 * value:.0f} %" if abs(value) >= 0.0995 or value == 0 else f"{100 * value:.1f} %"


def show_bytes(value: float) -> str:
    """Format bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def show_seconds(value: float) -> str:
    """Format seconds as s, min or h."""
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 119.5:
        return f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def turn_chart(
    turns: Sequence[int],
    values: Sequence[Interval],
    baselines: Sequence[tuple[str, float]],
    look: str,
    as_percent: bool,
    label: str,
) -> Markup:
    """Points with intervals, one per turn, joined by a line; baselines dashed. look: CSS class of the series: good or
    bad."""
    show: Callable[[float], str] = percent if as_percent else (lambda v: f"{v:.2f}")
    top = max([high for _, _, high in values] + [v for _, v in baselines] + [1e-9])
    ticks = round_numbers(0.0, min(1.0, top * 1.15) if top <= 1 else top * 1.15)
    right = 150 if baselines else RIGHT
    x0, x1 = min(turns), max(turns)
    pad = 0.5 if len(turns) < 3 else 0.35
    at_x = _scale(x0 - pad, x1 + pad, LEFT, WIDTH - right)
    at_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, at_y, percent if as_percent else _same_digits(ticks), WIDTH - right)]
    parts += [
        f'<text class="tick" x="{at_x(n):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">turn {n}</text>'
        for n in turns
    ]
    for (name, value), y in zip(baselines, _apart([at_y(v) for _, v in baselines], 24), strict=True):
        parts.append(
            f'<line class="base" x1="{LEFT}" x2="{WIDTH - right}" y1="{at_y(value):.1f}" y2="{at_y(value):.1f}"/>'
        )
        parts.append(f'<text class="base" x="{WIDTH - right + 8}" y="{y:.1f}">{escape(name)}</text>')
        parts.append(f'<text class="tick" x="{WIDTH - right + 8}" y="{y + 12:.1f}">{show(value)}</text>')
    path = " ".join(f"{at_x(n):.1f},{at_y(v[0]):.1f}" for n, v in zip(turns, values, strict=True))
    parts.append(f'<polyline class="line {look}" points="{path}"/>')
    for n, (mean, low, high) in zip(turns, values, strict=True):
        x = at_x(n)
        tip = f"turn {n}: {show(mean)}, 95 % interval {show(low)} to {show(high)}"
        parts.append(
            f'<g class="{look}"><title>{tip}</title>'
            f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(low):.1f}" y2="{at_y(high):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{at_y(mean):.1f}" r="5.5"/>'
            f'<text class="value" x="{x:.1f}" y="{at_y(high) - 10:.1f}" text-anchor="middle">{show(mean)}</text></g>'
        )
    return _svg(parts, label)


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, label: str
) -> Markup:
    """Lines of several series over one x axis; points that are not finite are left out. Long series are drawn as their
    running mean, with the raw values faint behind it."""
    kept = {name: _thin(x, y) for name, (x, y) in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return Markup('<p class="empty">no values</p>')
    xs = [float(x) for name in kept for x in series[name][0] if math.isfinite(x)]
    ys = sorted(y for points in kept.values() for _, y in points)
    highest = (
        ys[-1] if len(ys) < 40 else max(ys[int(0.985 * len(ys))], ys[len(ys) // 2])
    )  # a single spike must not flatten the rest
    ticks = round_numbers(min(ys[0], 0.0) if ys[0] < 0.4 * highest else ys[0], highest)
    marks = [t for t in round_numbers(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    at_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    at_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, at_y, _same_digits(ticks), WIDTH - RIGHT)]
    parts += [
        f'<text class="tick" x="{at_x(t):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{plain(t)}</text>'
        for t in marks
    ]
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" x="{LEFT}" y="12">{escape(y_label)}</text>')
    smooth = {name: _smooth(points) for name, points in kept.items()}
    for look, lines in ((" raw", kept), ("", smooth)):
        for i, (name, points) in enumerate(lines.items()):
            if look and smooth[name] is points:
                continue
            path = " ".join(f"{at_x(x):.1f},{max(TOP, at_y(y)):.1f}" for x, y in points)
            parts.append(f'<polyline class="line s{i % 8}{look}" points="{path}"/>')
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    data = {"series": {n: [[float(f"{v:.5g}") for v in p] for p in points] for n, points in kept.items()}}
    data |= {"x": [min(xs), max(xs), LEFT, WIDTH - RIGHT]}
    return _svg(parts, label, f' data-chart="{escape(json.dumps(data))}"')


def interval_bar(value: Interval, low: float, high: float) -> Markup:
    """A value's interval on its column's scale, small enough for a table cell."""
    at = _scale(low, high, 2, 88)
    mean, start, end = (at(v) for v in value)
    return Markup(
        '<svg class="mini" viewBox="0 0 90 10" aria-hidden="true"><line class="rail" x1="2" x2="88" y1="5" y2="5"/>'
        f'<line class="bar" x1="{start:.1f}" x2="{max(end, start + 0.5):.1f}" y1="5" y2="5"/>'
        f'<circle cx="{mean:.1f}" cy="5" r="3"/></svg>'
    )


def _svg(parts: Sequence[str], label: str, more: str = "") -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}"{more}>'
    return Markup(head + "".join(parts) + "</svg>")


def _grid(ticks: Sequence[float], at_y: Callable[[float], float], show: Callable[[float], str], right: float) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at_y(t):.1f}" y2="{at_y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{at_y(t) + 4:.1f}" text-anchor="end">{show(t)}</text>'
        for t in ticks
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def round_numbers(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span low to high, about `count` of them."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _same_digits(ticks: Sequence[float]) -> Callable[[float], str]:
    """Format all labels of an axis with as many decimals as its step needs."""
    step = ticks[1] - ticks[0]
    if step >= 1 and ticks[-1] >= 1000:
        return plain
    digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-9 * max(1.0, step)), 6)
    return lambda value: f"{value:.{digits}f}"


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move label heights down until no two overlap, keeping their order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    out, last = list(heights), -math.inf
    for i in order:
        out[i] = last = max(heights[i], last + gap)
    return out


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Running mean over a twentieth of the points to each side, narrower near the ends; short series are unchanged."""
    half = len(points) // 20
    if half < 2:
        return points
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        out.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return out


def _thin(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Average equal runs of points, so that at most MOST_POINTS remain."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    run = math.ceil(len(points) / MOST_POINTS) if points else 1
    groups = [points[i : i + run] for i in range(0, len(points), run)]
    return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]
