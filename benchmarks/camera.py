"""Compare the line's model on a real camera with constant velocity, constant yaw rate and PilotNet; one line of JSON.

    python -m benchmarks.camera --data FOLDER [--out DIR] [--quick]

FOLDER is a camera drive (docs/real-data.md); without one nothing is measured. The line trains the fleet's base model
and adapts it with three seeds, all in the run directory DIR, where a second call finds them. A PilotNet of similar size
trains on the same samples in the same order: first the fleet's, then the camera's, with the same shifts, grey pictures
and ego inputs; a second one gets pictures only. The learning rate of its second part is chosen on the validation part,
the tenth of the drive before the last fifth; the model's recipe was chosen on folds of the rest. All are evaluated on
the last fifth, by time; no label crosses a border, since labels stay within their clip. Intervals are 95 %, resampling
blocks of 5 s, which are longer than a label, and seeds. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import report
from benchmarks.peers.pilotnet import PilotNet, of_size, plan_loss, rolled
from drivefoundry.judge.open_loop import constant_velocity_plan, constant_yaw_rate_plan, open_loop_errors
from drivefoundry.label.episodes import load_shard
from drivefoundry.ledger import Ledger
from drivefoundry.line import camera
from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.recipes import Recipe, default, tiny
from drivefoundry.stages.context import RunContext
from drivefoundry.train.config import Augment, TrainConfig
from drivefoundry.train.dataset import EpisodeDataset, Sampler, batches
from drivefoundry.train.pretrain import fitted_codebook
from drivefoundry.train.trainer import learning_rate
from drivefoundry.types import Episodes, Observation
from drivefoundry_car.vehicle.embodiment import FRONT

SEEDS = (1, 2, 3)
METRICS = {"ade_4s": "m", "yaw_rate": "rad_s"}
PEERS = ("constant_velocity", "constant_yaw_rate", "pilotnet", "pilotnet_pictures_alone")
BLOCK, DRAWS = 10, 10_000
"""Samples (5 s) of a clip per block, and number of resamples."""
FIRST_RATE, RATES = 1e-3, (1e-3, 3e-4)
"""PilotNet's peak learning rates: on the fleet, and the candidates for the camera."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of a camera drive")
    parser.add_argument("--out", type=Path, default=Path("camera"), help="run directory, kept")
    parser.add_argument("--quick", action="store_true", help="a few steps of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.data.is_dir():
        print(f"{given.data}: no such folder; nothing is measured", file=sys.stderr)
        print(report({}, {}))
        return 0
    recipe = short() if given.quick else default()
    shards, models = made(given.data, given.out, recipe)
    fleet, train, val, held_out = (load_shard(s) for s in shards)
    errors = measure(fleet, (train, val), held_out, models, recipe)
    figures, targets = judged(errors, blocks(held_out.clip))
    figures |= {"held_out_samples": errors["vla"]["ade_4s"].shape[1]}
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def short() -> Recipe:
    r = tiny()
    return replace(r, pretrain=replace(r.pretrain, steps=4), camera=replace(r.camera, steps=3, phases=1))


def made(data: Path, out: Path, recipe: Recipe) -> tuple[list[Path], list[Path]]:
    """Artefacts of the line: shards of the fleet and of the drive's training, validation and held-out parts; one
    checkpoint per seed."""
    models, shards = [], []
    with Ledger(out) as ledger:
        for seed in SEEDS:
            line = RunContext(ledger, replace(recipe, camera=replace(recipe.camera, seed=seed)), out)
            camera(line, data)
            train, held_out, val, fleet = (a.path / "shard" for _, kind, a in line.done if kind == "label")
            models += [a.path / "checkpoint" for _, kind, a in line.done if kind == "adapt"]
            shards = [fleet, train, val, held_out]
    return shards, models


def measure(
    fleet: Episodes, own: tuple[Episodes, Episodes], held_out: Episodes, models: list[Path], recipe: Recipe
) -> dict[str, dict[str, np.ndarray]]:
    """Errors (seeds, N) of every planner by metric on the held-out part. own: the drive's training and validation
    parts."""
    train, _ = own
    plans = {
        "vla": [driven_by(model, held_out) for model in models],
        "constant_velocity": [constant_velocity_plan(held_out.ego)],
        "constant_yaw_rate": [constant_yaw_rate_plan(held_out.ego)],
    }
    size = load_checkpoint(models[0]).model.parameter_count()
    for name, ego_inputs in (("pilotnet", True), ("pilotnet_pictures_alone", False)):
        torch.manual_seed(recipe.pretrain.seed)
        net = of_size(train.frames[FRONT].shape[1:3], size, ego_inputs)
        print(f"{name}: {sum(p.numel() for p in net.parameters()):,} weights, the VLA {size:,}", file=sys.stderr)
        plans[name] = pilots(net, fleet, own, held_out, recipe)
    tables = {name: [open_loop_errors(p, held_out.future) for p in each] for name, each in plans.items()}
    return {name: {m: np.stack([t[m] for t in each]) for m in METRICS} for name, each in tables.items()}


def driven_by(model: Path, episodes: Episodes) -> np.ndarray:
    """Plans (N, 8, 3) of a checkpoint."""
    policy = TorchPolicy(model, "vla")
    return policy.act(Observation(episodes.pictures(slice(None)), episodes.ego, episodes.route)).points


def pilots(
    net: PilotNet, fleet: Episodes, own: tuple[Episodes, Episodes], held_out: Episodes, recipe: Recipe
) -> list[np.ndarray]:
    """A PilotNet's plans (N, 8, 3) for the held-out part, one per seed, after the same training as the VLA."""
    p, c = recipe.pretrain, recipe.camera
    train, val = own
    learn(net, [fleet], p.steps, p.batch, FIRST_RATE, p.augment, p.seed)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    missed = {}
    for rate in RATES:
        net.load_state_dict(start)
        learn(net, [train], c.steps, c.batch, rate, c.augment, c.seed)
        missed[rate] = float(open_loop_errors(asked(net, val), val.future)["ade_4s"].mean())
    rate = min(missed, key=lambda r: missed[r])
    print(f"PilotNet, ego inputs {net.ego_inputs}: {missed} m in validation", file=sys.stderr)
    out = []
    for seed in SEEDS:
        net.load_state_dict(start)
        learn(net, [train], c.steps, c.batch, rate, c.augment, seed)
        out.append(asked(net, held_out))
    return out


def learn(
    net: PilotNet, episodes: list[Episodes], steps: int, batch: int, rate: float, augment: Augment, seed: int
) -> None:
    """Train a net on the Trainer's batches, with AdamW, to minimise the distance of its plans."""
    dataset = EpisodeDataset.of(episodes, fitted_codebook(episodes, 32), None, 1, action="flow")
    sampler, config = Sampler(len(dataset), seed), TrainConfig(steps=steps, lr=rate)
    adam = torch.optim.AdamW(net.parameters(), lr=rate, betas=config.betas, weight_decay=config.weight_decay)
    for step in range(steps):
        [b] = batches(dataset, sampler, step, batch, augment)
        adam.param_groups[0]["lr"] = learning_rate(config, step / steps)
        goal = rolled(b.target, b.ego[:, -1, 0])
        loss = (plan_loss(net(b.frames[FRONT], b.ego, b.route, b.light), goal) * b.weight).sum() / b.action_sum
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        adam.step()
        if step % 50 == 49:
            print(
                f"PilotNet, ego inputs {net.ego_inputs}: step {step + 1}/{steps}, error {float(loss.detach()):.3f} m",
                file=sys.stderr,
            )


@torch.no_grad()
def asked(net: PilotNet, episodes: Episodes) -> np.ndarray:
    """Plans (N, 8, 3) of a net."""
    frames = torch.from_numpy(episodes.pictures(slice(None))[FRONT])
    return net(frames, torch.from_numpy(episodes.ego), torch.from_numpy(episodes.route)).double().numpy()


def blocks(clip: list[str]) -> np.ndarray:
    """(N,) block of each sample, given its clip, in order of time: equal parts of each clip of at least BLOCK
    samples."""
    labels: list[int] = []
    for _, members in groupby(clip):
        n, first = len(list(members)), max(labels, default=-1) + 1
        labels += [first + i * max(1, n // BLOCK) // n for i in range(n)]
    return np.array(labels)


def judged(
    errors: dict[str, dict[str, np.ndarray]], block: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float, bool]]]:
    """Figures, and the targets that the VLA's errors are below every peer's, from errors by planner and metric;
    `_apart`: the whole interval of the difference lies below 0."""
    figures, targets = {}, {}
    for metric, unit in METRICS.items():
        drawn = {name: resampled(e[metric], block, i) for i, (name, e) in enumerate(errors.items())}
        for name, e in errors.items():
            key = f"{name}_{metric}_{unit}"
            figures |= {key: e[metric].mean(), f"{key}_low": low(drawn[name]), f"{key}_high": low(-drawn[name]) * -1}
            if len(e[metric]) > 1:
                figures |= {f"{key}_seed_{s}": x.mean() for s, x in zip(SEEDS, e[metric], strict=True)}
        for peer in PEERS:
            key = f"vla_minus_{peer}_{metric}_{unit}"
            off, mean = drawn["vla"] - drawn[peer], errors["vla"][metric].mean() - errors[peer][metric].mean()
            figures |= {
                key: mean,
                f"{key}_low": low(off),
                f"{key}_high": -low(-off),
                f"{key}_apart": int(-low(-off) < 0),
            }
            targets[key] = (float(mean), 0.0, bool(mean < 0))
    return {k: v if isinstance(v, int) else float(v) for k, v in figures.items()}, targets


def resampled(errors: np.ndarray, block: np.ndarray, planner: int) -> np.ndarray:
    """Means (DRAWS,) of errors (seeds, N) over resampled blocks and seeds. All planners share the blocks, but not the
    seeds."""
    count = np.bincount(block)
    sums = np.stack([np.bincount(block, e) for e in errors])
    n, k = len(count), len(errors)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    seeds = np.random.default_rng([1, planner]).multinomial(k, np.full(k, 1 / k), DRAWS)
    return (seeds * (times @ sums.T)).sum(1) / (k * (times @ count))


def low(values: np.ndarray) -> float:
    """The lower end of the interval."""
    return float(np.quantile(values, 0.025))


if __name__ == "__main__":
    sys.exit(main())
