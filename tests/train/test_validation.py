"""Validation during training: correct figures, no effect on training, the same after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import BODY, TOY, toy_book, toy_episodes

from drivefoundry.model.checkpoint import Loaded, load_checkpoint
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA, CodebookVote
from drivefoundry.train.dataset import Augment, EpisodeDataset
from drivefoundry.train.losses import Objective
from drivefoundry.train.pretrain import fit
from drivefoundry.train.trainer import RunFiles, TrainConfig, Trainer
from drivefoundry.train.validation import Validation
from drivefoundry_car.vehicle.codec import integrate_controls

CONFIG = TrainConfig(steps=12, batch=16, lr=4e-3, compile=False, seed=3, precision="fp32", log_every=5)
UNSEEN = Validation(toy_episodes(40, seed=9), every=4)


def start(seed: int = 0) -> Loaded:
    torch.manual_seed(seed)
    return Loaded(VLA(TOY), toy_book(), TextCodec(train_tokenizer(["go"], TOY.text_vocab)), TOY, BODY)


def trainer(val: Validation | None, config: TrainConfig = CONFIG, **files: Path) -> Trainer:
    loaded = start()
    dataset = EpisodeDataset.of([toy_episodes(96)], toy_book(), None, TOY.max_text)
    return Trainer(loaded.model, dataset, config, validator=val.of(loaded, Objective()) if val else None, **files)


def weights(t: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in t.model.parameters()]


def measured(log: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(row) for row in log.read_text().splitlines()]
    return {int(r["step"]): r for r in rows if "val_loss" in r}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_changes_nothing_that_is_learnt(precision):
    config = replace(CONFIG, precision=precision)
    one, other = trainer(None, config), trainer(UNSEEN, config)
    assert np.array_equal(one.run().losses, other.run().losses)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_figures_are_those_of_the_plan_that_is_taken(tmp_path):
    t = trainer(replace(UNSEEN, every=100), log=tmp_path / "log")
    report = t.run()
    model, unseen = t.model.to(torch.bfloat16), UNSEEN.episodes
    frames = {name: torch.from_numpy(f) for name, f in unseen.pictures(np.arange(len(unseen))).items()}
    ego, route = torch.from_numpy(unseen.ego), torch.from_numpy(unseen.route)
    with torch.no_grad():
        controls = model.plan(frames, ego, route, CodebookVote.of(toy_book()))[1].float().numpy()
    off = integrate_controls(controls, unseen.ego[:, -1, 0])[..., :2] - unseen.future[..., :2]
    assert report.validation["val_ade"] == pytest.approx(np.hypot(off[..., 0], off[..., 1]).mean(), rel=0.01)
    assert measured(tmp_path / "log")[12]["val_ade"] == pytest.approx(report.validation["val_ade"], rel=1e-5)


def test_it_is_measured_every_so_often_and_at_the_end_and_falls_as_the_model_learns(tmp_path):
    config = replace(CONFIG, steps=90, batch=32, augment=Augment(brightness_jitter=0.05))
    trainer(replace(UNSEEN, every=40), config, log=tmp_path / "log").run()
    found = measured(tmp_path / "log")
    assert list(found) == [40, 80, 90]
    assert found[90]["val_loss"] < found[40]["val_loss"]
    assert {"loss", "val_loss", "val_ade"} <= set(found[90])


def test_a_measurement_after_the_first_step_leaves_rates_that_can_be():
    """The first step compiles and does not count; a rate over no time is none."""
    seen = []
    t = trainer(replace(UNSEEN, every=1))
    t.on_step = lambda step, total, metrics: seen.append(metrics)
    t.run()
    assert len(seen) > 12
    for metrics in seen:
        assert 0.0 <= metrics["samples_per_s"] < 1e6
        assert 0.0 <= metrics["goodput"] <= 1.0


def test_an_interrupted_run_measures_the_same(tmp_path):
    config = replace(CONFIG, log_every=1)
    val = replace(UNSEEN, keep_best=True)
    trainer(val, config, log=tmp_path / "whole").run()
    half = trainer(val, config, log=tmp_path / "cut", state=tmp_path / "state")
    for step in range(1, 10):  # goes on past the saved state, and is then killed
        metrics = half._one_step(half.progress())
        half.step = step
        half._report(metrics | half._validated())
        if step == 7:
            half.save()
            assert half.state is not None
            half.state.wait()
    resumed = trainer(val, config, log=tmp_path / "cut", state=tmp_path / "state")
    assert resumed.step == 7
    assert resumed.validator is not None
    assert resumed.validator.best == pytest.approx(measured(tmp_path / "whole")[4]["val_loss"], rel=1e-5)
    resumed.run()
    whole, cut = measured(tmp_path / "whole"), measured(tmp_path / "cut")
    assert {step: cut[step] for step in whole} == whole


def test_the_best_weights_are_kept_where_that_is_asked_for(tmp_path):
    """At a learning rate that ruins the model, the first measurement is the best."""
    config = replace(CONFIG, lr=0.3, optimiser="adamw", warmup=0.5, decay=0.1, spike=1e9)
    rates = {}
    for keep in (False, True):
        t = trainer(replace(UNSEEN, every=1, keep_best=keep), config, log=tmp_path / f"{keep}")
        t.run()
        losses = [row["val_loss"] for row in measured(tmp_path / f"{keep}").values()]
        again = UNSEEN.of(Loaded(t.model, toy_book(), start().tokenizer, TOY), Objective())
        rates[keep] = again._figures(t.model.to(torch.bfloat16))[0]
        assert losses[-1] > 1.001 * min(losses)
    assert rates[True] == pytest.approx(min(losses), rel=1e-5)
    assert rates[False] == pytest.approx(losses[-1], rel=1e-5)


def test_training_stops_when_patience_runs_out(tmp_path):
    config = replace(CONFIG, lr=0.3, optimiser="adamw", warmup=0.2, decay=0.1, spike=1e9, steps=60)
    report = trainer(replace(UNSEEN, every=2, patience=3), config, log=tmp_path / "log").run()
    losses = [row["val_loss"] for row in measured(tmp_path / "log").values()]
    assert report.steps < 60
    assert min(losses) not in losses[-3:]
    assert trainer(UNSEEN, config).run().steps == 60


def test_a_checkpoint_is_made_with_validation(tmp_path):
    fit(start(), [toy_episodes(64)], tmp_path / "checkpoint", CONFIG, RunFiles(log=tmp_path / "log"), val=UNSEEN)
    load_checkpoint(tmp_path / "checkpoint")
    assert list(measured(tmp_path / "log")) == [4, 8, 12]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="validation: no samples"):
        Validation(toy_episodes(0), 4).of(start(), Objective())
