"""`plan cluster`: a cluster in; what of it does lasting work, what keeps it there and where it breaks, out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from drivefoundry.cli.options import parse


@dataclass(frozen=True)
class ClusterOptions:
    """What `plan cluster` understands."""

    seeds: Annotated[int, arg(metavar="N")] = 4
    """Simulations behind every figure."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Gets cluster.html: the same with charts."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change the cluster: cards, days, card_mtbf_hours, restart_minutes, spares, ..."""


def run(rest: list[str]) -> None:
    """`plan cluster`: a table on stdout, and a page."""
    what = "simulates a cluster's failures, stragglers and checkpoints: what keeps it above 90 %, and where it breaks"
    options = parse(ClusterOptions, "plan cluster", what, rest)
    if options is None:
        return
    from drivefoundry.scaling import sweep
    from drivefoundry.scaling.cluster import Cluster
    from drivefoundry.settings import with_settings

    base = with_settings(Cluster(), options.set).validate()
    at = sweep.point(base, options.seeds)
    rows = sweep.sweep(base, options.seeds)
    print(sweep.sweep_text(base, at, rows))
    if options.out is not None:
        from drivefoundry.stages import scaling

        print(scaling.write_cluster(options.out / "cluster.html", base, at, rows, sweep.one_run(base).course))
