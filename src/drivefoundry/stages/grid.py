"""A grid of model sizes and amounts of data: train and judge each pair, and fit the scaling law to all of them.

Every pair is its own artefact: a grid may be killed, continued or extended, in any order. All pairs share one codebook
and one held-out city, and none sees a sample twice, so that their losses are comparable.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from drivefoundry.judge.evaluate import evaluate
from drivefoundry.judge.worst import SCORE
from drivefoundry.label.episodes import load_shard
from drivefoundry.ledger import Artefact
from drivefoundry.model.checkpoint import Loaded, load_checkpoint
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.model.presets import parameters, preset
from drivefoundry.progress import bar
from drivefoundry.scaling.config import GridConfig
from drivefoundry.scaling.law import Run
from drivefoundry.stages import ingest, label, score
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import write_json
from drivefoundry.stages.record import EmbeddedCity
from drivefoundry.stages.train import files_in, progress_callback, select_samples, tracked
from drivefoundry.tracking import Track
from drivefoundry.train.config import Augment, Objective, PretrainConfig
from drivefoundry.train.dataset import EpisodeDataset, Sampler, batches
from drivefoundry.train.losses import batch_loss
from drivefoundry.train.pretrain import fit as train
from drivefoundry.train.pretrain import fresh
from drivefoundry.types import Episodes, Scene, require
from drivefoundry_car import arrays

WIDTH = 320
"""Model width for which `GridConfig.lr` is specified."""


def grid(line: RunContext) -> list[Run]:
    """Train and judge all pairs of the recipe on the embedded fleet's drives, cheapest first."""
    r, source = line.recipe.scale, EmbeddedCity()
    r = replace(r, seed=line.seed("scale", r.seed))
    exam = source.exam(line)
    clips = ingest.ingest(line, 1, source.drives(line, 1, None))
    kept = label.curated(line, 1, clips, exam, None, source.exam_clips(exam))
    shard = label.shard(line, 1, clips, kept)
    apart = label.curated(line, None, exam, None, None, source.exam_clips(exam))
    held_out = label.shard(line, None, exam, apart, "held_out")
    yard = score.yardstick(line, score.Exam(source, exam))
    most = int(shard.info["samples"])
    require(max(r.samples) <= most, f"scale.samples: {max(r.samples)} requested of {most}; record more (fleet.seconds)")
    pairs = sorted(((s, n) for s in r.sizes for n in r.samples), key=lambda p: parameters(preset(p[0])) * p[1])
    runs = []
    for size, samples in pairs:
        one = _made(line, r, size, samples, shard, held_out, exam, yard)
        runs.append(Run(**json.loads((one.path / "run.json").read_text())))
    return runs


def _made(
    line: RunContext,
    r: GridConfig,
    size: str,
    samples: int,
    shard: Artefact,
    held_out: Artefact,
    exam: Artefact,
    yard: Artefact,
) -> Artefact:
    """Train and judge one pair."""
    one = replace(r, sizes=(size,), samples=(samples,))
    scenes: list[Scene] = []

    def build(out: Path) -> dict:
        scenes.extend(EmbeddedCity().scenes(line, exam)[: r.scenes])
        track = tracked(line, None, f"{size} on {samples}", one)
        return train_one(one, shard.path, held_out.path, scenes, yard.path, line.recipe.judge.seconds, out, track)

    return line.make(
        None, "scale", "scale", {"pair": one, "judge": line.recipe.judge}, [shard, held_out, exam, yard], build
    )


def train_one(
    r: GridConfig, shard: Path, held_out: Path, scenes: list[Scene], yard: Path, seconds: float, out: Path, track: Track
) -> dict:
    """Train one size on one amount of data; write out/checkpoint and the results, out/run.json."""
    (size,), (samples,) = r.sizes, r.samples
    episodes = load_shard(shard / "shard")
    start = fresh([episodes], preset(size), r.seed)  # the codebook of all samples, the same for every pair
    rows = np.sort(np.random.default_rng(r.seed).permutation(len(episodes))[:samples])
    steps = max(1, samples // r.batch)
    lr = r.lr * (WIDTH / start.config.dim) ** 0.5
    config = PretrainConfig(size=size, steps=steps, batch=r.batch, seed=r.seed, lr=lr)
    with bar(f"{size} on {samples:,}", steps) as advance, track.run(out) as sink:
        report = train(
            start, [select_samples(episodes, rows)], out / "checkpoint", config, files_in(out),
            progress_callback(advance, sink),
        )  # fmt: skip
    trained = load_checkpoint(out / "checkpoint")
    c = trained.config
    loss = held_out_loss(trained, load_shard(held_out / "shard"))
    goal = arrays.read(yard / "progress.safetensors", ["progress"])["progress"][: len(scenes)]
    scored = driving_score(TorchPolicy(out / "checkpoint", size), scenes, seconds, goal)
    run = Run(parameters(c), steps * r.batch * (c.prefix + c.plan), loss, scored, f"{size} on {samples:,} samples")
    write_json(out / "run.json", asdict(run.validate()))
    return {"pair": run.name, "loss": loss, "score": scored, "samples_per_s": report.samples_per_s, "mfu": report.mfu}


@torch.no_grad()
def held_out_loss(trained: Loaded, episodes: Episodes, size: int = 256) -> float:
    """Mean loss of the action codes on held-out episodes, without augmentation or dropout; nats per code."""
    dataset = EpisodeDataset.of([episodes], trained.codebook, None, trained.config.max_text, Objective().tolerance)
    model = trained.model.eval().to(torch.bfloat16)
    plain, size = Augment(flip=0.0, brightness_jitter=0.0, history_dropout=0.0, text=0.0), min(size, len(dataset))
    losses = []
    for step in range(len(dataset) // size):
        for batch in batches(dataset, Sampler(len(dataset), 0), step, size, plain):
            losses.append(batch_loss(model, batch, Objective())[1]["action"])
    return float(np.mean(losses))


def driving_score(policy: TorchPolicy, scenes: list[Scene], seconds: float, goal: np.ndarray) -> float:
    """Mean closed-loop driving score, 0 .. 1; goal (S,): the route follower's progress, m."""
    return evaluate(policy, scenes, seconds, reference=goal, two_stages=False).mean[SCORE]
