"""The Trainer: it learns, resumes bit for bit, divides work between ranks, and recovers from bad steps."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TOY, toy_book, toy_episodes

from drivefoundry.model.text import PAD
from drivefoundry.model.vla import VLA
from drivefoundry.train.config import Augment, TrainConfig
from drivefoundry.train.dataset import Batch, EpisodeDataset, Sampler, batches
from drivefoundry.train.distributed.threads import split
from drivefoundry.train.losses import batch_loss
from drivefoundry.train.optim import MasterWeights, polar
from drivefoundry.train.trainer import Trainer, learning_rate
from drivefoundry_car.vehicle.codec import decode

QUICK = TrainConfig(steps=12, batch=16, lr=4e-3, compile=False, seed=3, precision="fp32")
SCRIPT = """
import json, sys
from pathlib import Path
from test_trainer import QUICK, made
from drivefoundry.train.trainer import Trainer
from dataclasses import replace
out, state, steps, save = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
model, dataset = made()
trainer = Trainer(model, dataset, replace(QUICK, steps=steps, save_every_s=save), state=state, log=out)
trainer.run()
"""


def made(seed: int = 0) -> tuple[VLA, EpisodeDataset]:
    torch.manual_seed(seed)
    return VLA(TOY), EpisodeDataset.of([toy_episodes(96)], toy_book(), None, TOY.max_text)


def talking() -> tuple[VLA, EpisodeDataset]:
    """The same, and three of four samples have reasoning of five tokens."""
    model, dataset = made()
    words = np.random.default_rng(1).integers(5, 200, (96, 5))
    words[::4] = PAD
    return model, replace(dataset, text=words, text_mirrored=words)


def plan_of(codes: np.ndarray, speed: np.ndarray) -> np.ndarray:
    return decode(codes, toy_book(), speed)[..., :2]


def run_script(tmp_path: Path, name: str, steps: int, save: float, ranks: int = 1) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    script = tmp_path / "train_toy.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    arguments = [str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}.state"), str(steps), str(save)]
    return subprocess.Popen(
        [sys.executable, *torchrun, str(script), *arguments], env=environment, stderr=subprocess.PIPE
    )


def lines(path: Path) -> dict[int, float]:
    """Loss of each logged step; the last entry of a step counts."""
    entries = [json.loads(x) for x in path.read_text().splitlines()]
    return {int(e["step"]): e["loss"] for e in entries}


def test_it_learns_to_read_the_picture():
    model, dataset = made()
    config = replace(QUICK, steps=150, batch=32, precision="bf16", augment=Augment(brightness_jitter=0.05))
    report = Trainer(model, dataset, config).run()
    assert report.losses[-10:].mean() < 0.6 * report.losses[:3].mean()
    unseen = toy_episodes(64, seed=9)
    frames = {"front": torch.from_numpy(unseen.pictures(slice(None))["front"])}
    codes = model.act(frames, *map(torch.from_numpy, (unseen.ego, unseen.route)))[:, 0].numpy()
    speed = unseen.ego[:, -1, 0]
    straight = speed[:, None, None] * np.arange(1, 9)[None, :, None] * [0.5, 0.0]
    away = [np.linalg.norm(p - unseen.future[..., :2], axis=-1).mean() for p in (straight, plan_of(codes, speed))]
    assert away[1] < 0.35 * away[0]
    assert report.samples == 150 * 32


def test_interrupted_run_repeats_every_loss(tmp_path):
    whole = Trainer(*made(), QUICK).run().losses
    state = tmp_path / "state"
    half = Trainer(*made(), QUICK, state=state)
    for _ in range(5):
        half._one_step(half.progress())
        half.step += 1
    half.save()
    resumed = Trainer(*made(seed=8), QUICK, state=state).run()
    assert np.array_equal(whole[:5], half.losses)
    assert np.array_equal(whole[5:], resumed.losses)


def test_killed_run_continues(tmp_path):
    # in a process of its own as well: last digits depend on what else a process has computed
    whole = run_script(tmp_path, "whole", 40, 1e9)
    assert whole.wait(60) == 0
    killed = run_script(tmp_path, "cut", 40, 0.0)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    again = run_script(tmp_path, "cut", 40, 0.0)
    assert again.wait(60) == 0
    assert lines(tmp_path / "cut.jsonl") == lines(tmp_path / "whole.jsonl")
    for process in (whole, killed, again):
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"recompute": True}])
def test_the_same_is_learnt_in_less_memory(changes):
    whole = Trainer(*made(), QUICK).run().losses
    model, dataset = made()
    less = Trainer(model, dataset, replace(QUICK, **changes)).run().losses
    assert np.allclose(whole, less, atol=1e-5)
    assert "forward" not in vars(model.decoder.blocks[0])


@pytest.mark.parametrize("size", [1, 2, 7, 16, 61])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_lanes_take_every_sample_once(size: int, count: int):
    dataset = talking()[1]
    whole = batches(dataset, Sampler(len(dataset), 0), 0, size, Augment())
    assert size < 16 or {b.text is None for b in whole} == {True, False}
    shares = split(whole, count, 20)
    for there in (True, False):
        parts = [b for share in shares for b in share if (b.text is not None) == there]
        together = [b for b in whole if (b.text is not None) == there]
        assert sum(len(b) for b in parts) == sum(len(b) for b in together)
        if parts:
            shown = torch.cat([b.frames["front"] for b in parts])
            assert torch.equal(shown, together[0].frames["front"])
        for name in ("target", "weight") if parts else ():
            assert torch.equal(torch.cat([getattr(b, name) for b in parts]), getattr(together[0], name))
    if size > 60:
        tokens = [sum(len(b) * (20 + (0 if b.text is None else b.text.shape[1])) for b in share) for share in shares]
        assert max(tokens) - min(tokens) < 0.25 * sum(tokens) / count


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_lanes_learn_what_one_thread_learns(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    config, before = replace(QUICK, batch=48, compile=True), torch.get_num_threads()
    ran = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        try:
            trainer = Trainer(*talking(), config)
            ran.append(trainer.run().losses)
            assert trainer.threads.count == torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert np.allclose(ran[0], ran[1], atol=1e-5)
    assert np.array_equal(ran[1], ran[2])  # whichever lane is done first


def test_gradients_are_those_of_the_loss():
    model, dataset = made()
    model.double()
    trainer = Trainer(model, dataset, replace(QUICK, accumulate=2, recompute=True, augment=Augment(text=0.0)))
    for p in trainer.weights.params:
        p.data = p.data.double()

    def loss() -> torch.Tensor:
        samples = [b for micro in range(2) for b in trainer._share(micro)]
        return torch.stack([batch_loss(model, doubled(b), QUICK.objective)[0] for b in samples]).sum()

    loss().backward()
    for p in (model.decoder.blocks[0].q.weight, model.decoder.norm, model.embed, model.stem.patch.weight):
        assert p.grad is not None
        way = p.grad / p.grad.norm()
        with torch.no_grad():
            p.add_(way, alpha=1e-2)
            above = float(loss())
            p.sub_(way, alpha=2e-2)
            below = float(loss())
            p.add_(way, alpha=1e-2)
        assert (above - below) / 2e-2 == pytest.approx(float(p.grad.norm()), rel=1e-2)


def doubled(batch: Batch) -> Batch:
    return replace(batch, ego=batch.ego.double(), route=batch.route.double(), target=batch.target.double())


def test_the_running_mean_is_what_training_leaves():
    model, dataset = made()
    trainer = Trainer(model, dataset, replace(QUICK, steps=3, ema=0.75))
    mean = [m.detach().clone() for m in trainer.weights.masters]
    while trainer.step < 3:
        trainer._one_step(trainer.progress())
        trainer.step += 1
        mean = [0.75 * a + 0.25 * m.detach() for a, m in zip(mean, trainer.weights.masters, strict=True)]
    trainer.run()
    assert all(torch.allclose(p, a, atol=1e-6) for p, a in zip(model.parameters(), mean, strict=True))
    with pytest.raises(ValueError, match="ema: must be"):
        replace(QUICK, ema=1.0).validate()


def test_two_ranks_learn_what_one_learns(tmp_path):
    Trainer(*made(), replace(QUICK, steps=10), log=tmp_path / "one.jsonl").run()
    two = run_script(tmp_path, "two", 10, 1e9, ranks=2)
    _, said = two.communicate(timeout=120)
    assert two.returncode == 0, said.decode()[-2000:]
    assert lines(tmp_path / "two.jsonl")[10] == pytest.approx(lines(tmp_path / "one.jsonl")[10], abs=1e-4)


SECOND_LIFE = """
import os, time
import torch.distributed as dist
from drivefoundry.train.distributed.ranks import rank_and_world
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
if not first and os.environ["RANK"] == "1":
    time.sleep(1.0)  # the other one looks for it before it has said where it is
assert rank_and_world()[1] == 2
dist.barrier()
os._exit(1 if first else 0)
"""


def test_ranks_that_torchrun_starts_again_find_each_other(tmp_path):
    script = tmp_path / "second_life.py"
    script.write_text(SECOND_LIFE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_settings_do_not_resume(tmp_path):
    state = tmp_path / "state"
    first = Trainer(*made(), QUICK, state=state)
    first.run()
    with pytest.raises(ValueError, match="other settings"):
        Trainer(*made(), replace(QUICK, lr=1e-3), state=state)


def test_spikes_are_skipped_and_divergence_is_named():
    trainer = Trainer(*made(), replace(QUICK, steps=60, patience=2))
    before = [m.clone() for m in trainer.weights.masters]
    trainer.weights.gather()
    trainer._update({"loss": float("nan"), "grad_norm": 1.0}, 1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.weights.masters, strict=True))
    assert trainer.skipped == 1
    bad = {"loss": float("inf"), "grad_norm": 1.0}
    for _ in range(10):  # every third bad step goes back to the last good weights at half the learning rate
        trainer._update(dict(bad), 1e-3)
    assert trainer.lr_scale == 0.125
    with pytest.raises(ValueError, match="diverged"):
        trainer._update(dict(bad), 1e-3)


def test_time_box_ends_and_reports_progress():
    seen = []
    config = replace(QUICK, steps=0, seconds=0.5, log_every=1)
    report = Trainer(*made(), config, on_step=lambda *a: seen.append(a)).run()
    assert report.seconds >= 0.5
    assert seen[-1][0] == report.steps
    assert all(step <= total for step, total, _ in seen)
    assert 0 < Trainer(*made(), replace(QUICK, steps=4)).run().goodput <= 1
    with pytest.raises(ValueError, match="set seconds or steps"):
        TrainConfig().validate()


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_learning_rate_rises_and_falls(schedule):
    config = replace(QUICK, schedule=schedule, warmup=0.1, decay=0.5, lr=1.0)
    rates = [learning_rate(config, p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.2
    assert rates[-1] == pytest.approx(config.final_lr)
    assert np.argmax(rates) <= 50


@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 40, 24), (2, 24, 24)])
def test_polar_factor_is_nearly_orthogonal(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-6
    for dtype, slack in ((torch.float32, 0.001), (torch.bfloat16, 0.05)):
        values = torch.linalg.svdvals(polar(x.to(dtype)).float())
        assert values.max() < 1.381 + slack
        assert values[:, :20].min() > 0.619 - slack


def test_polar_factor_turns_no_singular_vector():
    x = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    for dtype, near in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        inside = u.mT @ polar(x.to(dtype)).float() @ v.mT
        assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < near


def test_nothing_has_no_direction():
    assert not polar(torch.zeros(1, 4, 8)).any()


def test_muon_takes_linear_layers_alone():
    model, _ = made()
    weights = MasterWeights(model, torch.float32, 0.0, (0.9, 0.95), muon=True)
    names = [n for n, _ in model.named_parameters()]
    taken = {names[i] for i in weights.hidden}
    assert "decoder.blocks.0.q.weight" in taken
    assert "stem.patch.weight" in taken
    assert not taken & {"embed", "stem.position", "ego_in.weight", "decoder.norm"}
