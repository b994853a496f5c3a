"""Plans by flow matching: the field, the inverse of driving, and a head that learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry.judge.open_loop import open_loop_errors
from drivefoundry.model.blocks.flow import FlowHead, controls_of, from_units, nearest, to_units
from drivefoundry.model.checkpoint import save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA, CodebookVote
from drivefoundry.types import Observation
from drivefoundry_car.vehicle.codec import decode, encode, fit_codebook, integrate_controls

TINY = ModelConfig(
    dim=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    ffn=48,
    stem=16,
    image=(32, 48),
    max_text=8,
    action="flow",
    flow=64,
)


def smooth(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Controls (n, 8, 2), speeds (n,) and the plans that they drive: gentle changes, as people drive."""
    rng = np.random.default_rng(seed)
    t = np.arange(8) / 8
    a = rng.uniform(-2, 1.5, (n, 1)) + rng.uniform(-1, 1, (n, 1)) * t
    k = rng.uniform(-0.03, 0.03, (n, 1)) + rng.uniform(-0.03, 0.03, (n, 1)) * t
    speed = rng.uniform(3, 14, n)
    controls = np.stack([a, k], -1)
    return controls, speed, integrate_controls(controls, speed)


def test_units_go_back_and_nearest_finds_itself():
    controls = torch.from_numpy(smooth(20)[0]).float()
    assert torch.allclose(from_units(to_units(controls)), controls, atol=1e-5)
    book = torch.from_numpy(fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), 32).astype(np.float32))
    codes = torch.randint(0, 32, (5, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(book[codes], book), codes)


def test_controls_of_a_plan_drive_it():
    _, speed, future = smooth(200)
    off = np.linalg.norm(integrate_controls(controls_of(future, speed), speed)[..., :2] - future[..., :2], axis=-1)
    assert off.mean() < 0.03
    assert off.max() < 0.3
    still = controls_of(np.zeros((3, 8, 3), np.float32), np.zeros(3))
    assert np.array_equal(still, np.zeros((3, 8, 2)))


def test_controls_lose_less_of_a_plan_than_codes():
    _, speed, future = smooth(300)
    book = fit_codebook(future, speed, 64)
    by_codes = decode(encode(future, book, speed), book, speed)
    by_controls = integrate_controls(controls_of(future, speed), speed)
    codes, flow = (np.linalg.norm(p[..., :2] - future[..., :2], axis=-1).mean() for p in (by_codes, by_controls))
    assert 0.0 < flow < 0.5 * codes < 1.0


def test_at_speed_codes_lose_the_yaw_rate_that_controls_keep():
    controls, _, _ = smooth(300)
    speed = np.full(300, 15.0)
    future = integrate_controls(controls * [1.0, 0.1], speed)
    book = fit_codebook(future, speed)
    ways = {
        "codes": decode(encode(future, book, speed), book, speed),
        "flow": integrate_controls(controls_of(future, speed), speed),
    }
    lost = {name: open_loop_errors(way, future)["yaw_rate"].mean() for name, way in ways.items()}
    assert lost["flow"] < 0.1 * lost["codes"]
    assert lost["codes"] > 0.01


def test_the_straight_field_carries_noise_to_its_goal():
    """With the exact velocity of a single goal, (goal - x) / (1 - t), Euler steps end at the goal."""
    head = FlowHead(TINY)
    goal = torch.linspace(-1, 1, 16)
    head.velocity = lambda x, time, state: (goal - x) / (1 - time)  # type: ignore[method-assign]
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_units(head.plan(torch.zeros(4, 32), noise)).flatten(1), goal.expand(4, -1), atol=1e-5)


def test_it_learns_a_handful_of_plans_by_heart():
    torch.manual_seed(0)
    m = VLA(TINY)
    controls = torch.from_numpy(smooth(6)[0]).float()
    pixels = np.random.default_rng(1).integers(0, 256, (6, 2, 32, 48, 3), dtype=np.uint8)
    inputs = ({"front": torch.from_numpy(pixels)}, torch.ones(6, 4, 3), torch.ones(6, 12))
    text = torch.tensor([[5, 1, 0], [6, 1, 0], [0, 0, 0]] * 2)
    optimiser, losses = torch.optim.Adam(m.parameters(), lr=3e-3), []
    for _ in range(300):
        logits = m(*inputs, text, torch.zeros(6, 8, dtype=torch.long))
        loss = m.action_loss(logits, controls).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
    m.eval()
    vote = CodebookVote.of(fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), TINY.codes))
    codes, got = m.plan(*inputs, vote)
    assert (to_units(got) - to_units(controls)).abs().mean() < 0.1
    assert torch.equal(codes, nearest(got, vote.codebook))
    many = m.act(*inputs, temperature=1.0, n=3, text=text, generator=torch.Generator().manual_seed(0))
    assert many.shape == (6, 3, 8, 2)
    assert (to_units(many) - to_units(controls)[:, None]).abs().mean() < 0.25


def test_the_state_is_the_same_with_and_without_a_cache():
    m = VLA(TINY).eval()
    inputs = ({"front": torch.zeros(2, 2, 32, 48, 3, dtype=torch.uint8)}, torch.ones(2, 4, 3), torch.ones(2, 12))
    text = torch.tensor([[5, 6, 1], [0, 0, 0]])
    state = m(*inputs, text, torch.zeros(2, 8, dtype=torch.long)).action
    assert torch.allclose(m.act(*inputs, text=text)[:, 0], m.flow.plan(state), atol=1e-5)


def test_a_policy_drives_by_flow(tmp_path):
    torch.manual_seed(0)
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), TINY.codes)
    save_checkpoint(tmp_path / "flow", VLA(TINY), book, TextCodec(train_tokenizer(["turn left"])))
    rng = np.random.default_rng(0)
    frames = {"front": rng.integers(0, 256, (5, 2, 32, 48, 3), dtype=np.uint8)}
    seen = Observation(frames, np.full((5, 4, 3), 5.0, np.float32), rng.normal(size=(5, 12)).astype(np.float32))
    policy = TorchPolicy(tmp_path / "flow", "flow", reason=True)
    policy.reset([])
    plan = policy.act(seen)
    assert plan.tokens is not None
    assert plan.points.shape == (5, 8, 3)
    assert (plan.tokens >= 0).all()
    assert (plan.tokens < TINY.codes).all()
    alone = Observation({"front": seen.frames["front"][2:3]}, seen.ego[2:3], seen.route[2:3])
    assert np.allclose(policy.act(alone).points[0], plan.points[2], atol=1e-2)


def test_codes_lose_by_cross_entropy_behind_the_same_door():
    m = VLA(replace(TINY, action="codes"))
    inputs = ({"front": torch.zeros(2, 2, 32, 48, 3, dtype=torch.uint8)}, torch.ones(2, 4, 3), torch.ones(2, 12))
    codes = torch.randint(0, 128, (2, 8), generator=torch.Generator().manual_seed(0))
    logits = m(*inputs, None, codes)
    wanted = torch.nn.functional.cross_entropy(logits.action.flatten(0, 1), codes.flatten(), reduction="none")
    target = torch.nn.functional.one_hot(codes, 128).float()
    assert m.action_loss(logits, target).tolist() == pytest.approx(wanted.view(2, 8).mean(1).tolist(), rel=1e-5)
