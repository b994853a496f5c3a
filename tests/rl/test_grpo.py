"""Dr. GRPO: it raises the given reward, and keeps the old model if it does not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry import line
from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA
from drivefoundry.recipes import named
from drivefoundry.rl.config import GrpoConfig
from drivefoundry.rl.grpo import Situations, grpo
from drivefoundry.settings import with_settings
from drivefoundry.types import Episodes
from drivefoundry_car.vehicle.codec import fit_codebook
from drivefoundry_car.vehicle.embodiment import CAR

torch.set_num_threads(1)
BODY = replace(CAR, cameras=(CAR.cameras[0].scaled(48, 32),))
TINY = ModelConfig(dim=48, layers=1, heads=3, kv_heads=1, head_dim=16, ffn=64, stem=16, image=(32, 48), max_text=4)
CONFIG = GrpoConfig(steps=25, states=8, samples=16, lr=3e-3, kl=0.0, bc_weight=0.0, validation_states=16)


def straight_on(n: int = 64) -> list[Episodes]:
    """n situations of grey noise in which the label drives on at its speed."""
    rng = np.random.default_rng(0)
    speed = rng.uniform(4.0, 8.0, n).astype(np.float32)
    future = np.zeros((n, 8, 3), np.float32)
    future[:, :, 0] = speed[:, None] * 0.5 * np.arange(1, 9)
    ego = np.zeros((n, 4, 3), np.float32)
    ego[:, :, 0], ego[:, :, 2] = speed[:, None], 1.0
    frames = rng.integers(0, 256, (2 * n, 32, 48, 3), dtype=np.uint8)
    return [
        Episodes(
            {"front": frames}, np.arange(2 * n).reshape(n, 1, 2), ego, np.zeros((n, 12), np.float32), future, [""] * n,
            ["c"] * n,
            np.zeros(n), np.ones(n, np.float32), np.zeros(n, bool), BODY,
        )
    ]  # fmt: skip


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0))
    save_checkpoint(tmp_path / "start", VLA(TINY), book, TextCodec(train_tokenizer([])), BODY)
    return tmp_path / "start"


def leftward(rows: np.ndarray, plans: np.ndarray) -> np.ndarray:
    """Reward in 0 .. 1 for ending up to the left."""
    assert len(rows) == len(plans)
    return 1 / (1 + np.exp(-plans[:, :, -1, 1].astype(np.float64) / 5))


def test_it_finds_what_is_rewarded(start, tmp_path):
    report = grpo(
        Situations(straight_on(), np.arange(64), np.ones(64)),
        leftward,
        start,
        tmp_path / "out",
        CONFIG,
        tmp_path / "log",
    )
    assert report.kept
    assert report.after > report.before + 0.1
    assert report.reward[-5:].mean() > report.reward[:5].mean() + 0.1
    assert len([json.loads(x) for x in (tmp_path / "log").read_text().splitlines()]) == CONFIG.steps


def test_a_worse_model_is_not_kept(start, tmp_path):
    """The reward reverses once training ends, so what was learnt is worthless."""
    seen = 0

    def fickle(rows, plans):
        nonlocal seen
        seen += 1
        good = leftward(rows, plans)
        return good if seen <= CONFIG.steps + 1 else 0.1 * good

    report = grpo(Situations(straight_on(), np.arange(64), np.ones(64)), fickle, start, tmp_path / "out", CONFIG)
    assert not report.kept
    old, new = (load_checkpoint(p).model.state_dict() for p in (start, tmp_path / "out"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_anchor_holds(start, tmp_path):
    """With an overwhelming anchor the label is learnt, whatever the reward."""
    config = replace(CONFIG, bc_weight=20.0)
    report = grpo(
        Situations(straight_on(), np.arange(64), np.ones(64)),
        leftward,
        start,
        tmp_path / "out",
        config,
        tmp_path / "log",
    )
    anchor = [json.loads(x)["anchor"] for x in (tmp_path / "log").read_text().splitlines()]
    assert anchor[-1] < 0.5 * anchor[0]
    assert report.reward[-1] < 0.6


def test_too_few_situations_are_refused(start, tmp_path):
    with pytest.raises(ValueError, match="situations"):
        grpo(Situations(straight_on(), np.arange(10), np.ones(10)), leftward, start, tmp_path / "out", CONFIG)


def test_a_flow_head_is_refused(tmp_path):
    model = VLA(replace(TINY, action="flow", flow=16))
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0))
    save_checkpoint(tmp_path / "flow", model, book, TextCodec(train_tokenizer([])))
    with pytest.raises(ValueError, match=r"flow: plans come from a flow head; rl samples codes"):
        grpo(
            Situations(straight_on(), np.arange(64), np.ones(64)), leftward, tmp_path / "flow", tmp_path / "out", CONFIG
        )
    recipe = with_settings(named("tiny"), [f"pretrain.backbone={tmp_path / 'flow'}"])
    with pytest.raises(ValueError, match=r"^pretrain\.backbone: .*flow: rl cannot sample .* --action codes"):
        line.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
