"""The grid of the scaling law: each pair once, nested data, loss on held-out plans."""

from dataclasses import replace

import numpy as np

from drivefoundry.ledger import Ledger
from drivefoundry.model.presets import parameters, preset
from drivefoundry.recipes import named
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.grid import grid


def test_a_grid_grows_and_makes_nothing_twice(tmp_path):
    tiny = named("tiny")
    fleet = replace(tiny.fleet, cars=3, seconds=40, held_out_seconds=40)
    small = replace(tiny, fleet=fleet, scale=replace(tiny.scale, sizes=("0.1M",), samples=(16, 64), scenes=2))
    with Ledger(tmp_path) as ledger:
        runs = grid(RunContext(ledger, small, tmp_path))
    c = preset("0.1M")
    assert [r.parameters for r in runs] == [parameters(c)] * 2
    assert [r.tokens for r in runs] == [n * (c.prefix + c.plan) for n in (16, 64)]
    assert all(0 < r.loss < np.log(c.codes) + 0.5 for r in runs)
    assert runs[1].loss < runs[0].loss
    assert all(r.score is not None and 0 <= r.score <= 1 for r in runs)
    larger = replace(small, scale=replace(small.scale, sizes=("0.1M", "0.3M"), samples=(64,)))
    with Ledger(tmp_path) as ledger:
        line = RunContext(ledger, larger, tmp_path)
        again = grid(line)
    assert again[0] == runs[1]
    assert [a.made for _, kind, a in line.done if kind == "scale"] == [False, True]
