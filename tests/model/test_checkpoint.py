"""Checkpoints, tokenizers and the policy that drives with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.model.text import EOS, PAD, TextCodec, load, mirror_text, train_tokenizer
from drivefoundry.model.vla import VLA
from drivefoundry.types import Observation
from drivefoundry_car.vehicle.codec import decode, fit_codebook

TINY = ModelConfig(dim=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=64, stem=16, image=(32, 48), max_text=12)
SAYINGS = [
    "car ahead, 12 m, braking: slow down",
    "red light, 30 m: stop at the line",
    "route turns left: slow down, keep left",
    "nothing near: keep speed",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(
        out, VLA(TINY), fit_codebook(np.zeros((0, 8, 3)), np.zeros(0)), TextCodec(train_tokenizer(SAYINGS * 5))
    )
    return out


def test_loads_what_was_saved(folder):
    loaded = load_checkpoint(folder)
    torch.manual_seed(0)
    for (name, mine), theirs in zip(loaded.model.state_dict().items(), VLA(TINY).state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert loaded.config == TINY
    assert not list(folder.parent.glob("*.part"))


def test_damage_is_named(folder, tmp_path):
    loaded = load_checkpoint(folder)
    copy = tmp_path / "copy"
    save_checkpoint(copy, loaded.model, loaded.codebook, loaded.tokenizer)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: not an intact"):
        load_checkpoint(copy)
    weights.unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors; not a checkpoint"):
        load_checkpoint(copy)


def test_a_shape_and_a_tokenizer_that_do_not_fit_are_refused(folder):
    loaded = load_checkpoint(folder)
    with pytest.raises(ValueError, match=r"text_shift: 3, the tokenizer's is 0; .*adopt"):
        replace(loaded, config=replace(loaded.config, text_shift=3))


def test_policy_drives_many_cars_and_talks(folder):
    rng = np.random.default_rng(0)
    seen = Observation(
        {"front": rng.integers(0, 256, (5, 2, 32, 48, 3), dtype=np.uint8)},
        np.abs(rng.normal(size=(5, 4, 3))).astype(np.float32),
        rng.normal(size=(5, 12)).astype(np.float32),
    )
    policy = TorchPolicy(folder, "base", reason=True)
    policy.reset([])
    plan = policy.act(seen)
    assert plan.tokens is not None
    assert plan.text is not None
    assert len(plan.text) == 5
    selected = decode(plan.tokens, policy.codebook, seen.ego[:, -1, 0])
    assert 0.0 < np.abs(plan.points - selected)[..., :2].max() < 3.0, "driven is the mean around what is selected"
    alone = Observation({"front": seen.frames["front"][2:3]}, seen.ego[2:3], seen.route[2:3])
    assert np.array_equal(TorchPolicy(folder, "base").act(alone).points[0], plan.points[2])


def test_text_round_trip():
    codec = load(train_tokenizer(SAYINGS * 5, vocab=300))
    assert len(codec) <= 300
    ids = codec.encode([*SAYINGS, ""], 40)
    assert codec.decode(ids) == [*SAYINGS, ""]
    assert (ids[-1] == PAD).all()
    assert (ids[:-1] == EOS).sum() == len(SAYINGS)
    pieces = codec.pieces()
    spelt = "".join(pieces[i] for i in ids[0] if i not in (PAD, EOS)).replace("\u2581", " ").strip()
    assert spelt == SAYINGS[0], "the pieces alone must be enough to write the text out"


def test_long_text_is_cut_with_its_end():
    ids = TextCodec(train_tokenizer(SAYINGS)).encode(SAYINGS, 4)
    assert (ids[:, 3] == EOS).all()


def test_mirrored_text():
    assert mirror_text("Left lane; turn left, then right. leftover") == "Right lane; turn right, then left. leftover"
    assert all(mirror_text(mirror_text(s)) == s for s in SAYINGS)
