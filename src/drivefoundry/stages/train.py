"""Shards in, checkpoints out: pre-training, fine-tuning with reasoning, reinforcement, distillation, quantisation.

Each artefact holds checkpoint/ (model, codec, tokenizer) and metrics.jsonl; that of an engine holds the engine's files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.label.episodes import load_shard
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.model.backbones.load import backbone_path
from drivefoundry.model.config import Action
from drivefoundry.progress import bar
from drivefoundry.quantize.export import export_engine
from drivefoundry.recipes import Camera, Distil, Measure, Rl, Train, leaves
from drivefoundry.rl.grpo import GrpoConfig, grpo
from drivefoundry.rl.reward import PdmReward
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.label import scenes_of
from drivefoundry.tracking import Track
from drivefoundry.train.distil import DISTIL, distil
from drivefoundry.train.pretrain import PRETRAIN, SFT, pretrain, sft
from drivefoundry.train.trainer import OnStep, TrainConfig, TrainReport
from drivefoundry.train.validation import Validation
from drivefoundry.types import DT, Episodes

STATE = "state.tmp"
"""A killed training goes on from here; the ledger keeps no *.tmp."""
HISTORY = 15
"""Steps of log that the PDM score wants before a situation."""
CALIBRATION = 512
"""Samples on which the engine is compared with the float student."""


def pretrained(
    line: RunContext, shards: list[Artefact], action: Action = "codes", val: Artefact | None = None
) -> Artefact:
    """The base model, from scratch or around a language model, on the first shard."""
    r, paths = line.recipe.train, [s.path for s in shards]
    made_from: dict[str, Any] = {"train": r, "action": action, "validation": line.recipe.validation}
    on = measured_on(line, val)
    if r.backbone is not None:
        made_from["backbone"] = fingerprint(backbone_path(r.backbone))
    track = tracked(line, None, "pretrain", r)
    return line.make(
        None, "train", "pretrain", made_from, [*shards, val], lambda d: _pretrain(r, action, paths, d, track, on)
    )


def adapted(line: RunContext, base: Artefact, shard: Artefact) -> Artefact:
    """The base model, trained on with another camera's clips."""
    r = line.recipe.camera
    track = tracked(line, None, "adapt", r)
    return line.make(None, "train", "adapt", r, [base, shard], lambda d: _adapt(r, base.path, shard.path, d, track))


def fine_tuned(
    line: RunContext, turn: int, base: Artefact, shards: list[Artefact], val: Artefact | None = None
) -> Artefact:
    """The last model, taught this turn's clips and to give its reasons."""
    r, paths = line.recipe.train, [s.path for s in shards]
    track = tracked(line, turn, "sft", r)
    on, made_from = measured_on(line, val), {"train": r, "validation": line.recipe.validation}
    return line.make(
        turn, "train", "sft", made_from, [base, *shards, val], lambda d: _sft(r, base.path, paths, d, track, on)
    )


def reinforced(line: RunContext, turn: int, sft_model: Artefact, shards: list[Artefact]) -> Artefact:
    """The fine-tuned model after reinforcement on scenes cut from this turn's clips."""
    r, paths = line.recipe.rl, [s.path for s in shards]
    track = tracked(line, turn, "rl", r)
    return line.make(
        turn, "rl", "rl", r, [sft_model, *shards],
        lambda d: _reinforce(r, line.store, sft_model.path, paths, d, track),
    )  # fmt: skip


def distilled(
    line: RunContext,
    turn: int,
    teacher: Artefact,
    before: Artefact | None,
    shards: list[Artefact],
    val: Artefact | None = None,
) -> Artefact:
    """A much smaller student of the reinforced model, on from the last student."""
    r, rl, paths = line.recipe.distil, line.recipe.rl, [s.path for s in shards]
    ago = before.path if before else None
    track, on = tracked(line, turn, "distil", r), measured_on(line, val)
    return line.make(
        turn, "distil", "distil", {"distil": r, "rl": rl, "validation": line.recipe.validation},
        [teacher, before, *shards, val],
        lambda d: _distil(r, rl, line.store, teacher.path, ago, paths, d, (track, on)),
    )  # fmt: skip


def quantised(line: RunContext, turn: int, student: Artefact, shards: list[Artefact]) -> Artefact:
    """The student as an int8 engine."""
    newest = shards[-1].path
    return line.make(
        turn, "quantize", "quantize", {}, [student, shards[-1]], lambda d: _quantise(student.path, newest, d)
    )


MeasuredOn = tuple[Measure, Path] | None
"""How to measure, and the shard to measure on."""


def measured_on(line: RunContext, val: Artefact | None) -> MeasuredOn:
    return (line.recipe.validation, val.path) if val else None


def validation(on: MeasuredOn, steps: int) -> Validation | None:
    """Evenly spaced samples of the validation shard, measured a few times within so many steps."""
    if on is None:
        return None
    r, shard = on
    episodes = load_shard(shard / "shard")
    rows = np.linspace(0, len(episodes) - 1, min(r.samples, len(episodes))).round().astype(int)
    return Validation(select_samples(episodes, rows), max(1, steps // (r.times + 1)), r.keep_best, r.patience)


def fingerprint(backbone: Path) -> str:
    """Hash all bytes of a file or of a directory of files."""
    files = sorted(p for p in backbone.iterdir() if p.is_file()) if backbone.is_dir() else [backbone]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _shards(paths: list[Path]) -> list[Episodes]:
    return [load_shard(p / "shard") for p in paths]


def mixed(paths: list[Path], driven_share: float, seed: int) -> list[Episodes]:
    """Shards of all turns in; all samples of the turns in which a model drove, and as many of the first turn as leave
    those the share `driven_share` of all."""
    first, *driven = _shards(paths)
    if not driven:
        return [first]
    new = sum(len(e) for e in driven)
    old = min(len(first), round(new * (1 - driven_share) / driven_share))
    rows = np.sort(np.random.default_rng(seed).permutation(len(first))[:old])
    return [select_samples(first, rows), *driven]


def select_samples(episodes: Episodes, rows: np.ndarray) -> Episodes:
    """Some samples of an Episodes, which share its frames."""
    arrays = ("frame_index", "ego", "route", "future", "t", "weight", "correction")
    texts = {name: [getattr(episodes, name)[i] for i in rows] for name in ("text", "clip")}
    return replace(episodes, **{name: getattr(episodes, name)[rows] for name in arrays}, **texts)


def tracked(line: RunContext, turn: int | None, kind: str, r: Any) -> Track:
    """Where a stage's metrics go besides, and its recipe with them."""
    return Track(line.track, f"{line.recipe.name} {kind}{f' turn {turn}' if turn else ''}", dict(leaves(r)))


def progress_callback(advance: Callable[..., None], log: OnStep) -> OnStep:
    """A trainer's callback, which comes every few steps, as one that moves a bar and tells a tracker."""
    last = 0

    def on_step(step: int, total: int, metrics: dict[str, float]) -> None:
        nonlocal last
        advance(step - last, note(metrics))
        log(step, total, metrics)
        last = step

    return on_step


def note(metrics: dict[str, float]) -> str:
    """What a bar says of a training, in some 40 characters: loss or reward, samples a second, MFU, goodput."""
    said = [f"{name} {metrics[name]:.3f}" for name in ("loss", "reward") if name in metrics]
    if (rate := metrics.get("samples_per_s")) is not None:
        said.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    names = (("mfu", "MFU"), ("goodput", "goodput"))
    return " ".join(said + [f"{label} {100 * metrics[name]:.0f}%" for name, label in names if name in metrics])


def summary(report: TrainReport) -> dict:
    names = ("samples_per_s", "mfu", "goodput", "scheduling", "runtime")
    loss = float(report.losses[-20:].mean()) if len(report.losses) else float("nan")
    return (
        {"samples": report.samples, "loss": loss} | {name: getattr(report, name) for name in names} | report.validation
    )


def _pretrain(r: Train, action: Action, shards: list[Path], out: Path, track: Track, on: MeasuredOn = None) -> dict:
    config = replace(
        PRETRAIN, seconds=0.0, steps=r.pretrain_steps, batch=r.batch, lr=r.pretrain_rate, seed=r.seed,
        weight_decay=r.weight_decay, augment=replace(PRETRAIN.augment, history_dropout=r.forget),
    )  # fmt: skip
    config = _gently(config, r)
    with bar("pre-train", r.pretrain_steps) as advance, track.run(out) as sink:
        report = pretrain(
            _shards(shards), out / "checkpoint", config, r.size, state=out / STATE, log=out / "metrics.jsonl",
            on_step=progress_callback(advance, sink), ego_changes=r.ego_changes, backbone=r.backbone, action=action,
            val=validation(on, r.pretrain_steps),
        )  # fmt: skip
    return summary(report)


def _gently(config: TrainConfig, r: Train) -> TrainConfig:
    """A backbone is trained on as it was made, by AdamW: Muon's steps would cost more than reading the samples."""
    return config if r.backbone is None else replace(config, optimiser="adamw", lr=r.backbone_rate)


def _adapt(r: Camera, base: Path, shard: Path, out: Path, track: Track) -> dict:
    augment = replace(PRETRAIN.augment, history_dropout=r.forget, image_dropout=r.blind, max_shift_px=r.shake)
    config = replace(
        PRETRAIN, seconds=0.0, steps=r.steps, batch=r.batch, lr=r.rate, seed=r.seed, weight_decay=r.weight_decay,
        augment=augment,
    )  # fmt: skip
    with bar("adapt", r.steps) as advance, track.run(out) as sink:
        report = pretrain(
            _shards([shard]), out / "checkpoint", config, init=base / "checkpoint", state=out / STATE,
            log=out / "metrics.jsonl", on_step=progress_callback(advance, sink),
        )  # fmt: skip
    return summary(report)


def _sft(r: Train, base: Path, shards: list[Path], out: Path, track: Track, on: MeasuredOn = None) -> dict:
    steps = r.sft_steps if len(shards) == 1 else r.turn_steps
    augment = replace(SFT.augment, text=r.reasoned if len(shards) == 1 else r.turn_reasoned)
    config = replace(
        SFT, seconds=0.0, steps=steps, batch=r.batch, lr=r.sft_rate, seed=r.seed + len(shards), augment=augment
    )
    config = _gently(config, r)
    episodes = mixed(shards, r.new_share, r.seed)
    with bar("fine-tune", steps) as advance, track.run(out) as sink:
        report = sft(
            episodes, out / "checkpoint", base / "checkpoint", config, out / STATE, out / "metrics.jsonl",
            progress_callback(advance, sink), validation(on, steps),
        )  # fmt: skip
    return summary(report)


def _distil(
    r: Distil,
    rl: Rl,
    store: str,
    teacher: Path,
    before: Path | None,
    shards: list[Path],
    out: Path,
    logs: tuple[Track, MeasuredOn],
) -> dict:
    """The teacher's opinion on every clip first, then the reward on the student's own plans."""
    track, on = logs
    steps = r.steps if before is None else r.turn_steps
    objective = replace(DISTIL.objective, teacher=r.teacher)
    config = replace(DISTIL, seconds=0.0, steps=steps, batch=r.batch, lr=r.rate, seed=len(shards), objective=objective)
    init = before / "checkpoint" if before else None
    with bar("distil", steps + r.polish_steps) as advance:
        with track.run(out) as sink:
            report = distil(
                mixed(shards, r.new_share, 0), out / "distilled.tmp", teacher / "checkpoint", config, r.size, init,
                out / STATE, out / "metrics.jsonl", progress_callback(advance, sink), validation(on, steps),
            )  # fmt: skip
        if not r.polish_steps:
            os.replace(out / "distilled.tmp", out / "checkpoint")
            return summary(report)
        polish = replace(rl, rate=r.polish_rate)
        with track.run(out, "polish") as sink:
            on_step = progress_callback(advance, sink)
            return summary(report) | _polish(polish, r.polish_steps, store, out / "distilled.tmp", shards, out, on_step)


def _reinforce(r: Rl, store: str, model: Path, shards: list[Path], out: Path, track: Track) -> dict:
    """Dr. GRPO on situations of all clips, from the start after a kill."""
    (out / "metrics.jsonl").unlink(missing_ok=True)
    with bar("reinforce", r.steps) as advance, track.run(out) as sink:
        return _polish(r, r.steps, store, model / "checkpoint", shards, out, progress_callback(advance, sink))


def _polish(r: Rl, steps: int, store: str, model: Path, shards: list[Path], out: Path, on_step: OnStep) -> dict:
    """Reward: the PDM score of the plan, driven among the recorded traffic of the clip's scene."""
    episodes = _shards(shards)
    clips = [c for e in episodes for c in e.clip]
    scenes = {s.id: s for s in scenes_of(store, sorted(set(clips)))}
    at = np.concatenate([np.rint(e.t / DT) for e in episodes]).astype(np.int64)
    rows = np.flatnonzero(at >= HISTORY)
    share = np.concatenate([e.weight for e in episodes])[rows].astype(np.float64)

    reward = PdmReward([scenes[clip] for clip in clips], at, r.reward)
    config = GrpoConfig(
        steps=steps, states=r.scenes, samples=r.samples, lr=r.rate, kl=r.kl, bc_weight=r.anchor,
        temperature=r.temperature, validation_states=min(r.trial, len(rows) // 4), seed=len(shards),
    )  # fmt: skip
    report = grpo(episodes, rows, share, reward, model, out / "checkpoint", config, out / "metrics.jsonl", on_step)
    return {
        "reward_before": report.before,
        "reward_after": report.after,
        "model": "reinforced" if report.kept else "unchanged: reinforcement did not help on situations kept apart",
        "scenes": len(scenes),
        "plans": steps * r.scenes * r.samples,
    }


def _quantise(student: Path, shard: Path, out: Path) -> dict:
    """Export, compare with the float student on clips, record the self test."""
    fresh(out)
    episodes = load_shard(shard / "shard")
    rows = np.sort(np.random.default_rng(0).permutation(len(episodes))[:CALIBRATION])
    return export_engine(student / "checkpoint", out, episodes.pictures(rows), episodes.ego[rows], episodes.route[rows])
