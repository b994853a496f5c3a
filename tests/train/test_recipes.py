"""Pre-training, SFT and distillation in sequence, on the toy world."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import TOY, toy_episodes

from drivefoundry.model import presets as shapes
from drivefoundry.model.backbones.exports import save_hf
from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.train.config import Augment, DistilConfig, Objective, PretrainConfig, SftConfig
from drivefoundry.train.dataset import EpisodeDataset
from drivefoundry.train.distil import distil, teacher_opinion
from drivefoundry.train.pretrain import around, fine_tune, fresh, imported, pretrain
from drivefoundry.train.trainer import RunFiles
from drivefoundry_car.vehicle.codec import decode, fit_codebook, integrate_controls
from tinybackbone import tiny_backbone

EPISODES = [toy_episodes(64)]


def test_from_nothing_to_a_student_that_talks(tmp_path, monkeypatch):
    small = shapes.ModelConfig(dim=48, layers=2, heads=3, kv_heads=1, head_dim=16, ffn=96, stem=16, max_text=12)
    monkeypatch.setitem(shapes.PRESETS, "0.3M", small)
    monkeypatch.setitem(shapes.PRESETS, "0.1M", replace(small, layers=1))
    base, tuned, student = tmp_path / "base", tmp_path / "tuned", tmp_path / "student"
    brief = {"steps": 80, "batch": 32, "lr": 4e-3}
    first = pretrain(EPISODES, base, PretrainConfig(**brief, size="0.3M"), RunFiles(tmp_path / "s", tmp_path / "log"))
    assert first.losses[-5:].mean() < 0.7 * first.losses[0]
    assert not (tmp_path / "s").exists()
    assert "grad_norm" in (tmp_path / "log").read_text()
    assert load_checkpoint(base).config.image == (32, 48)

    fine_tune(EPISODES, tuned, base, SftConfig(**brief, augment=Augment(text=1.0)))
    loaded = load_checkpoint(tuned)
    assert np.array_equal(loaded.codebook, load_checkpoint(base).codebook)
    from drivefoundry.model.policy import TorchPolicy
    from drivefoundry.types import Observation

    e = EPISODES[0]
    seen = Observation(e.pictures(slice(None)), e.ego, e.route)
    plan = TorchPolicy(tuned, "tuned", reason=True).act(seen)
    assert plan.text is not None
    assert np.mean([a == b for a, b in zip(plan.text, e.text, strict=True)]) > 0.5

    report = distil(EPISODES, student, tuned, DistilConfig(**brief, size="0.1M"))
    assert report.losses[-5:].mean() < 0.7 * report.losses[0]
    assert np.array_equal(load_checkpoint(student).codebook, loaded.codebook)
    other = tmp_path / "other"
    pretrain([toy_episodes(64, seed=5)], other, PretrainConfig(**brief | {"steps": 1}, size="0.1M"))
    with pytest.raises(ValueError, match="codebook is not the teacher's"):
        distil(EPISODES, student, tuned, DistilConfig(**brief), init=other)


def test_frames_of_another_size_are_refused(tmp_path):
    start = fresh(EPISODES, shapes.preset("0.1M"))
    assert start.config.image == (32, 48)
    with pytest.raises(ValueError, match="none given"):
        fresh([], shapes.preset("0.1M"))


def test_from_a_backbone_to_a_student_with_its_own_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.PRESETS, "0.1M", replace(TOY, layers=1, text_vocab=200, max_text=16))
    given, base, tuned, student = (tmp_path / name for name in ("given", "base", "tuned", "student"))
    save_hf(given, tiny_backbone())
    brief = {"steps": 24, "batch": 32, "lr": 2e-3, "seed": 0}
    first = pretrain(EPISODES, base, PretrainConfig(**brief, backbone=str(given)))
    assert first.losses[-5:].mean() < 0.8 * first.losses[0]
    told = load_checkpoint(base)
    assert told.config.image == (32, 48)
    assert told.tokenizer.raw == tiny_backbone().tokenizer
    e = EPISODES[0]
    assert np.array_equal(told.codebook, fit_codebook(e.future, e.ego[:, -1, 0], told.config.codes))

    talk = fine_tune(EPISODES, tuned, base, SftConfig(**brief, augment=Augment(text=1.0)))
    assert talk.losses[-5:].mean() < talk.losses[0]
    for part in range(2):
        brief = {**brief, "steps": 6 + part}
        ago = student if part else None
        report = distil(EPISODES, student, tuned, DistilConfig(**brief, size="0.1M"), init=ago)
        small = load_checkpoint(student)
        assert small.config.text_shift == 0
        assert small.config.layers == 1
        assert small.tokenizer.decode(small.tokenizer.encode(["turn left, go"], 16)) == ["turn left, go"]
        assert np.array_equal(small.codebook, told.codebook)
        assert np.isfinite(report.losses).all()


def test_an_imported_backbone_keeps_its_shape_and_gets_a_codebook(tmp_path):
    given, made = tmp_path / "given", tmp_path / "made"
    save_hf(given, tiny_backbone())
    start = imported(given, image=(32, 48), action="flow", codes=32)
    save_checkpoint(made, start.model, start.codebook, start.tokenizer)
    again = around(EPISODES, str(made), ego_changes=False)
    assert again.config == start.config
    assert not np.array_equal(again.codebook, start.codebook)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), start.model.parameters(), strict=True))


def test_a_flow_head_learns_repeats_itself_and_teaches_codes(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.PRESETS, "0.1M", replace(TOY, layers=1))
    monkeypatch.setitem(shapes.PRESETS, "0.3M", replace(TOY, flow=64))
    teacher = tmp_path / "teacher"
    brief = {"steps": 100, "batch": 32, "lr": 4e-3, "precision": "fp32"}
    plain = PretrainConfig(**brief, augment=Augment(text=0.0, brightness_jitter=0.05), size="0.3M", action="flow")
    first = pretrain(EPISODES, teacher, plain)
    assert first.losses[-10:].mean() < 0.6 * first.losses[:3].mean()
    short = replace(plain, steps=3)
    once, again = (pretrain(EPISODES, tmp_path / "again", short).losses for _ in range(2))
    assert np.array_equal(once, again)

    e = EPISODES[0]
    loaded = load_checkpoint(teacher)
    frames, ego, route = (
        {"front": torch.from_numpy(e.pictures(slice(None))["front"])},
        *map(torch.from_numpy, (e.ego, e.route)),
    )
    plan = integrate_controls(loaded.model.act(frames, ego, route)[:, 0].numpy(), e.ego[:, -1, 0])
    still = e.ego[:, -1, 0, None] * np.arange(1, 9) * 0.5
    straight = np.hypot(still - e.future[..., 0], e.future[..., 1]).mean()
    assert np.linalg.norm((plan - e.future)[..., :2], axis=-1).mean() < 0.5 * straight

    dataset = EpisodeDataset.of(EPISODES, loaded.codebook, None, 10)
    opinion = teacher_opinion(loaded.model, dataset, loaded.codebook, Objective())
    assert np.allclose(opinion.astype(np.float64).sum(-1), 1.0, atol=1e-2)
    told = decode(opinion.argmax(-1), loaded.codebook, e.ego[:, -1, 0])
    assert np.linalg.norm((told - plan)[..., :2], axis=-1).mean() < 0.3
    student = distil(EPISODES, tmp_path / "student", teacher, DistilConfig(**brief | {"steps": 30}, size="0.1M"))
    assert student.losses[-5:].mean() < student.losses[0]
    assert load_checkpoint(tmp_path / "student").config.action == "codes"
