"""Scaling law of driving: train models of many sizes on many amounts of fleet data, fit their law, and predict the
largest.

`python -m benchmarks.scaling` trains 25 models on the embedded fleet's drives in --out, where a killed run continues;
--quick does the same with nine models of a few seconds each. The page with figures is scaling.html in the same folder.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import report
from drivefoundry import recipes
from drivefoundry.ledger import Ledger
from drivefoundry.reports.scaling import write_scaling
from drivefoundry.scaling.law import laws
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.grid import grid

MINUTES, ERROR, SIZES, AMOUNTS = 90.0, 0.03, 5, 4


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="nine models of seconds: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("out-scaling"), help="run directory, continued if it exists")
    asked = parser.parse_args()
    recipe = recipes.named("tiny" if asked.quick else "default")
    start = time.monotonic()
    with Ledger(asked.out) as ledger:
        line = RunContext(ledger, recipe, asked.out)
        runs = grid(line)
        training_s = sum(artefact.seconds for _, kind, artefact in line.done if kind == "scale")
    (asked.out / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    law, score = laws(runs)
    print(write_scaling(asked.out / "scaling.html", law, score))
    held = law.held_out
    assert held is not None
    coefficients, exponents = law.coefficients(), law.exponents()
    figures = {
        "runs": len(runs),
        "sizes": len({run.parameters for run in runs}),
        "data_amounts": len(set(recipe.scale.samples)),
        "held_out_loss_nats": held.measured,
        "held_out_predicted_nats": held.predicted[0],
        "held_out_error_share": abs(held.error),
        "this_call_min": (time.monotonic() - start) / 60,
        "training_min": training_s / 60,
    }
    for name, values in (coefficients | {f"exponent_{k}": v for k, v in exponents.items()}).items():
        figures |= {f"{name}": values[0], f"{name}_low": values[1], f"{name}_high": values[2]}
    if score is not None:
        figures |= {"score_law_holds": float(score.holds), "score_law_p": score.p, "score_explained": score.explained}
        print(score.finding())
    targets = {
        "held_out_error_share": (figures["held_out_error_share"], ERROR, figures["held_out_error_share"] <= ERROR),
        "sizes": (figures["sizes"], SIZES, figures["sizes"] >= SIZES),
        "data_amounts": (figures["data_amounts"], AMOUNTS, figures["data_amounts"] >= AMOUNTS),
        "training_min": (figures["training_min"], MINUTES, figures["training_min"] <= MINUTES),
    }
    print(report(figures, targets, {}), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
