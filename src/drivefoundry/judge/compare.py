"""Compare two verdicts: paired differences on the scenes that both judged, as rows and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivefoundry.judge.gate import MARGINS, Verdict
from drivefoundry.judge.scores import VERSIONS
from drivefoundry.judge.stats import Comparison, compare_paired
from drivefoundry.judge.worst import SCORE, failure
from drivefoundry.types import require, short_id

CHANGED = 8
"""Number of scenes listed: those whose scores changed most."""


@dataclass(frozen=True)
class Row:
    """One metric of one policy in two verdicts: both means, and the paired comparison of the second with the first."""

    policy: str
    metric: str
    first: float
    second: float
    change: Comparison


def shared_scenes(a: Verdict, b: Verdict) -> tuple[np.ndarray, np.ndarray]:
    """Indices into each verdict of the scenes that both judged: same id and same content. ValueError if there are
    none."""
    known = {(scene, a.content.get(scene)): i for i, scene in enumerate(a.scenes)}
    pairs = [(known[key], j) for j, scene in enumerate(b.scenes) if (key := (scene, b.content.get(scene))) in known]
    require(len(pairs) > 0, "judge compare: the verdicts share no scene; judge both on the same held-out scenes")
    return np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])


def compare_verdicts(a: Verdict, b: Verdict, metrics: Sequence[str] = tuple(MARGINS)) -> list[Row]:
    """Compare the second verdict's scores with the first's on shared scenes: first the candidates, then every policy
    that is in both, on the scenes that it drove in both. Skips metrics that are missing or not finite."""
    at_a, at_b = shared_scenes(a, b)
    pairs = [(a.candidate, b.candidate)] + [(p, p) for p in a.scores if p in b.scores and p != a.candidate]
    rows = []
    for one, other in pairs:
        name = one if one == other else f"{one} -> {other}"
        for metric in metrics:
            if metric not in a.scores[one] or metric not in b.scores[other]:
                continue
            first, second = a.scores[one][metric], b.scores[other][metric]
            both = (at_a < len(first)) & (at_b < len(second))
            if not both.any():
                continue
            first, second = first[at_a[both]], second[at_b[both]]
            change = compare_paired(second, first, MARGINS.get(metric, 0.0))
            rows.append(Row(name, metric, float(first.mean()), float(second.mean()), change))
    return rows


def comparison_text(a: Verdict, b: Verdict) -> str:
    """The table that `drivefoundry judge compare` prints: means, paired differences with 95 % intervals and the
    conclusion, then the candidate's scenes that changed most and what went wrong in each."""
    at_a, at_b = shared_scenes(a, b)
    lines = [f"{len(at_a)} scenes in both ({len(a.scenes)} in the first, {len(b.scenes)} in the second verdict)"]
    for name in MARGINS:
        lines.append(f"{name}: {VERSIONS[name]}; 'no worse' means by less than {MARGINS[name]:g}")
    if a.versions != b.versions:
        lines.append("the verdicts follow different versions of the metrics, which may explain differences")
    lines += ["", f"{'policy':<34}{'metric':<18}{'first':>7}{'second':>8}{'change':>9}  95 % interval       shown"]
    for row in compare_verdicts(a, b):
        c = row.change
        lines.append(
            f"{row.policy:<34}{row.metric:<18}{row.first:>7.3f}{row.second:>8.3f}{c.difference:>+9.3f}"
            f"  [{c.low:+.3f}, {c.high:+.3f}]    {shown(c)}"
        )
    mine, theirs = a.scores[a.candidate], b.scores[b.candidate]
    change = theirs[SCORE][at_b] - mine[SCORE][at_a]
    most = [k for k in np.argsort(-np.abs(change), kind="stable") if change[k] != 0.0][:CHANGED]
    lines += ["", f"scenes of {b.candidate} that changed most in {SCORE}:" if most else "no scene changed"]
    for k in most:
        was, now = mine[SCORE][at_a[k]], theirs[SCORE][at_b[k]]
        fates = f"{_fate(mine, int(at_a[k]))} -> {_fate(theirs, int(at_b[k]))}"
        lines.append(f"  {short_id(a.scenes[at_a[k]]):<14}{was:.3f} -> {now:.3f}  {fates}")
    return "\n".join(lines)


def shown(c: Comparison) -> str:
    """Conclusion of the one-sided tests at 5 %."""
    return "superior" if c.superior else "no worse" if c.non_inferior else "worse" if c.high < 0.0 else "not decided"


def _fate(metrics: dict[str, np.ndarray], i: int) -> str:
    term, at = failure(metrics, i)
    return (f"{term} at {at:.1f} s" if np.isfinite(at) else term) or "nothing wrong"
