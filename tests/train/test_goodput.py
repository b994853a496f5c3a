"""Goodput: losses by a kill are accounted for after the restart; saves are optimally spaced; errors are raised."""

import json
import time
from functools import cache

import numpy as np
import pytest
import torch

from drivefoundry.train import goodput
from drivefoundry.train.goodput import RunLog, process_start
from drivefoundry.train.state import StateFile, copied, save_interval


def test_a_peak_that_training_beats_is_measured_again(monkeypatch):
    measured = iter([1.0, 50.0])
    monkeypatch.setattr(goodput, "matrix_peak", cache(lambda *_: next(measured)))
    assert goodput.share_of_peak(20.0, 2, torch.bfloat16) == 0.2
    assert goodput.share_of_peak(90.0, 2, torch.bfloat16) == 0.9


def test_three_factors_over_two_lives(tmp_path):
    file = tmp_path / "state.lives.tmp"
    now, born = time.time(), process_start()
    assert now - 3600 < born < now
    file.write_text(json.dumps([[born - 30.0, born - 10.0]]))  # killed 10 s before this process began
    lives = RunLog(file)
    assert lives.spans[0] == [born - 30.0, born - 10.0]
    assert lives.spans[1][0] == pytest.approx(born)
    good = lives.goodput(useful=5.0, program=0.4)
    alive = 20.0 + lives.spans[1][1] - born
    assert good.scheduling == pytest.approx(alive / (alive + 10.0))
    assert good.runtime == pytest.approx(5.0 / alive)
    assert good.whole == pytest.approx(0.4 * 5.0 / (alive + 10.0))
    assert good.program == 0.4
    assert len(json.loads(file.read_text())) == 2
    third = RunLog(file)  # in the same process: it begins now, not with the process
    assert third.spans[2][0] >= lives.spans[1][1]
    third.forget()
    assert not file.exists()


def test_the_best_interval_is_where_both_losses_are_equal():
    cost, between = 0.4, 120.0
    every = np.linspace(0.5, 60, 2000)
    waste = cost / every + every / (2 * between)
    assert every[np.argmin(waste)] == pytest.approx(save_interval(cost, between), abs=0.05)


def test_a_state_is_what_it_was_when_saved(tmp_path):
    place, living = StateFile(tmp_path / "state"), {"weights": [torch.ones(3)], "step": 3}
    assert place.cost == 0.0
    assert place.load({}) is None
    place.save(living, {"good": torch.zeros(2)})
    living["weights"][0].fill_(7.0)
    place.wait()
    assert place.cost > 0
    found = place.load({})
    assert found is not None
    assert torch.equal(found["weights"][0], torch.ones(3))
    assert found["step"] == 3
    assert torch.equal(copied(found)["good"], torch.zeros(2))
    place.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_raised_at_the_next(tmp_path):
    place = StateFile(tmp_path / "gone" / "state")
    place.save({"step": 1}, {})
    with pytest.raises(FileNotFoundError, match="gone"):
        place.wait()
