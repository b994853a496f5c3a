"""Speed and accuracy of the simulated cluster, and of fitting a scaling law; prints one line of JSON.

    python -m benchmarks.cluster [--quick]

10,000 cards for 30 days: one job on all of them, and one on four fifths beside a queue of small ones; the runtime
goodput of years of failures against Daly's closed form; a law of 36 runs with 400 bootstraps. CPU seconds are the best
of several. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace

import numpy as np

from benchmarks.figures import best, report
from drivefoundry.scaling.goodput.cluster import Cluster, Job, mixed
from drivefoundry.scaling.goodput.simulation import simulate
from drivefoundry.scaling.goodput.sweep import point
from drivefoundry.scaling.law import Run, fit, value_at
from drivefoundry.scaling.plan import daly, runtime_goodput

SECONDS = 1.0
"""Maximum CPU time for 10,000 cards and 30 days with a queue of jobs, s."""
DIFFERENCE = 0.005
"""Maximum difference of the runtime goodput from Daly's."""
KEPT = 0.90
"""Minimum goodput of the default cluster."""
LAW = np.array([1.69, 406.4, 410.7, 0.34, 0.28])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and seeds, fewer years")
    asked = parser.parse_args()
    times, seeds, days = (2, 2, 400.0) if asked.quick else (7, 16, 4000.0)
    c = Cluster()
    one, queue = [Job(c.modules - round(c.spares * c.modules))], mixed(c)
    alone, many = (best(lambda jobs=jobs: simulate(c, jobs), times) for jobs in (one, queue))
    figures = {
        "one_job_10k_cards_30_days_cpu_s": alone,
        "queue_10k_cards_30_days_cpu_s": many,
        "queue_jobs": len(queue),
        "events_per_cpu_s": simulate(c, queue).events / many,
        "daly_difference": daly_difference(days),
        "goodput_10k_cards": point(c, seeds).goodput,
        "fit_cpu_s": best(lambda: fit(runs()), times),
    }
    targets = {
        "queue_10k_cards_30_days_cpu_s": (many, SECONDS, many <= SECONDS),
        "daly_difference": (figures["daly_difference"], DIFFERENCE, figures["daly_difference"] <= DIFFERENCE),
        "goodput_10k_cards": (figures["goodput_10k_cards"], KEPT, figures["goodput_10k_cards"] >= KEPT),
    }
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def daly_difference(days: float) -> float:
    """Largest relative difference of the runtime goodput from the closed form, over intervals around the optimum."""
    quiet = Cluster(8000, days=days, slow_mtbf_hours=math.inf, link_mtbf_hours=math.inf, spares=0.0, repair_hours=0.0)
    mtbf, stall = 50_000 * 3600 / 8000, 60.0
    found = []
    for share in (0.3, 1.0, 3.0):
        work = share * daly(stall, mtbf)
        c = replace(quiet, checkpoint_minutes=work / 60, snapshot_seconds=stall, write_seconds=0.0)
        reached = simulate(c, [Job(1000)]).runtime
        found.append(abs(reached / runtime_goodput(work, stall, 60 * c.restart_minutes, mtbf) - 1))
    return max(found)


def runs() -> list[Run]:
    """A grid of 36 runs with half a per cent of scatter."""
    rng = np.random.default_rng(0)
    sizes, data = np.geomspace(4e7, 1e10, 6), np.geomspace(1e9, 5e11, 6)
    return [Run(n, d, float(value_at(LAW, n, d) * np.exp(0.005 * rng.standard_normal()))) for n in sizes for d in data]


if __name__ == "__main__":
    sys.exit(main())
