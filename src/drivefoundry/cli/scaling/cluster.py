"""`plan cluster`: goodput of a simulated cluster, its losses, and where it falls below 90 %."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from drivefoundry.cli.options import Creates
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class ClusterOptions(Creates):
    """What `plan cluster` takes."""

    seeds: Annotated[int, arg(metavar="N")] = 4
    """Simulations per figure."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Directory for cluster.html, a page with charts."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change the cluster: cards, days, card_mtbf_hours, restart_minutes, spares, ..."""


def run(options: ClusterOptions) -> Outcome:
    """`plan cluster`: a table, and with --out a page."""
    from drivefoundry.scaling.goodput import sweep
    from drivefoundry.scaling.goodput.cluster import Cluster
    from drivefoundry.settings import with_settings

    base = with_settings(Cluster(), options.set).validate()
    page = None if options.out is None else options.out / "cluster.html"
    if options.dry_run:
        return Outcome(f"would write {page}" if page else "would write nothing", {"would_write": page})
    at = sweep.point(base, options.seeds)
    rows = sweep.sweep(base, options.seeds)
    text = sweep.sweep_text(base, at, rows)
    if page is not None:
        from drivefoundry.reports import scaling

        text += f"\n{scaling.write_cluster(page, base, at, rows, sweep.one_run(base).course)}"
    return Outcome(
        text, {"cluster": asdict(base), "at": asdict(at), "sweep": [asdict(row) for row in rows], "page": page}
    )
