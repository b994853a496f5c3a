"""Pretrain, SFT and distil, one after the other, on the toy world."""

from dataclasses import replace

import numpy as np
import pytest
from toys import toy_episodes

from drivefoundry.model import presets as shapes
from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.train.corpus import Augment
from drivefoundry.train.distil import DISTIL, distil
from drivefoundry.train.pretrain import PRETRAIN, fresh, pretrain
from drivefoundry.train.sft import SFT, sft

EPISODES = [toy_episodes(64)]


def test_from_nothing_to_a_student_that_talks(tmp_path, monkeypatch):
    small = shapes.ModelConfig(dim=48, layers=2, heads=3, kv_heads=1, head_dim=16, ffn=96, stem=16, max_text=12)
    monkeypatch.setitem(shapes.PRESETS, "0.3M", small)
    monkeypatch.setitem(shapes.PRESETS, "0.1M", replace(small, layers=1))
    base, tuned, student = tmp_path / "base", tmp_path / "tuned", tmp_path / "student"
    brief = {"seconds": 0.0, "steps": 80, "batch": 32, "lr": 4e-3}
    first = pretrain(EPISODES, base, replace(PRETRAIN, **brief), "0.3M", state=tmp_path / "s", log=tmp_path / "log")
    assert first.losses[-5:].mean() < 0.7 * first.losses[0]
    assert not (tmp_path / "s").exists()
    assert "grad_norm" in (tmp_path / "log").read_text()
    assert load_checkpoint(base).config.image == (32, 48)

    sft(EPISODES, tuned, base, replace(SFT, **brief, augment=Augment(text=1.0)))
    loaded = load_checkpoint(tuned)
    assert np.array_equal(loaded.codebook, load_checkpoint(base).codebook)
    from drivefoundry.model.policy import TorchPolicy
    from drivefoundry.types import Observation

    e = EPISODES[0]
    seen = Observation(e.frames[e.frame_index], e.ego, e.route)
    plan = TorchPolicy(tuned, "tuned", reason=True).plan(seen)
    assert plan.text is not None
    assert np.mean([a == b for a, b in zip(plan.text, e.text, strict=True)]) > 0.5

    report = distil(EPISODES, student, tuned, replace(DISTIL, **brief), "0.1M")
    assert report.losses[-5:].mean() < 0.7 * report.losses[0]
    assert np.array_equal(load_checkpoint(student).codebook, loaded.codebook)
    other = tmp_path / "other"
    pretrain([toy_episodes(64, seed=5)], other, replace(PRETRAIN, **(brief | {"steps": 1})), "0.1M")
    with pytest.raises(ValueError, match="codebook is not the teacher's"):
        distil(EPISODES, student, tuned, replace(DISTIL, **brief), init=other)


def test_frames_of_another_size_are_refused(tmp_path):
    start = fresh(EPISODES, shapes.preset("0.1M"))
    assert start.config.image == (32, 48)
    with pytest.raises(ValueError, match="none given"):
        fresh([], shapes.preset("0.1M"))
