"""Train checkpoints from shards: pre-training, fine-tuning with reasoning, reinforcement, distillation, quantisation.

Each artefact holds checkpoint/ (model, codec, tokenizer) and metrics.jsonl; that of an engine holds the engine's files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drivefoundry.label.episodes import load_shard
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.model.backbones.load import backbone_path
from drivefoundry.progress import bar
from drivefoundry.quantize.export import export_engine
from drivefoundry.rl.config import GrpoConfig
from drivefoundry.rl.grpo import Situations, grpo
from drivefoundry.rl.reward import PdmReward
from drivefoundry.settings import leaves
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.label import scenes_of
from drivefoundry.tracking import Track
from drivefoundry.train.config import AdaptConfig, DistilConfig, PretrainConfig, SftConfig, ValidationConfig
from drivefoundry.train.distil import distil
from drivefoundry.train.pretrain import fine_tune, pretrain
from drivefoundry.train.trainer import OnStep, RunFiles, TrainReport
from drivefoundry.train.validation import Validation
from drivefoundry.types import DT, Episodes

"""A killed training resumes from here; the ledger does not keep *.tmp."""
HISTORY = 15
"""Steps of log before a situation that the PDM score needs."""
CALIBRATION = 512
"""Number of samples on which the engine is compared with the float student."""


def pretrained(line: RunContext, shards: list[Artefact], val: Artefact | None = None) -> Artefact:
    """The base model, from scratch or around a language model, trained on the first shard."""
    c, paths = line.recipe.pretrain, [s.path for s in shards]
    c = replace(c.around_backbone(c), seed=line.seed("pretrain", c.seed))
    made_from: dict[str, Any] = {"pretrain": c, "validation": line.recipe.validation}
    if c.backbone is not None:
        made_from["backbone"] = fingerprint(backbone_path(c.backbone))
    track, on = tracked(line, None, "pretrain", c), measured_on(line, val)
    return line.make(None, "train", "pretrain", made_from, [*shards, val], lambda d: _pretrain(c, paths, d, track, on))


def adapted(line: RunContext, base: Artefact, shard: Artefact, val: Artefact | None = None) -> Artefact:
    """The base model, further trained on another camera's clips."""
    c = line.recipe.camera
    c = replace(c, seed=line.seed("adapt", c.seed))
    track, on = tracked(line, None, "adapt", c), measured_on(line, val)
    return line.make(
        None, "train", "adapt", {"adapt": c, "validation": line.recipe.validation}, [base, shard, val],
        lambda d: _adapt(c, base.path, shard.path, d, track, on),
    )  # fmt: skip


def fine_tuned(
    line: RunContext, turn: int, base: Artefact, shards: list[Artefact], val: Artefact | None = None
) -> Artefact:
    """The last model, fine-tuned on this turn's clips and their reasoning."""
    r, paths = line.recipe, [s.path for s in shards]
    c = replace(r.pretrain.around_backbone(r.sft.of_turn(turn)), seed=line.seed("sft", turn, r.sft.seed))
    mix = line.seed("mix", r.sft.seed)
    track, on = tracked(line, turn, "sft", c), measured_on(line, val)
    return line.make(
        turn, "train", "sft", {"sft": c, "mix": mix, "validation": r.validation}, [base, *shards, val],
        lambda d: _sft(c, mix, base.path, paths, d, track, on),
    )  # fmt: skip


def reinforced(line: RunContext, turn: int, sft_model: Artefact, shards: list[Artefact]) -> Artefact:
    """The fine-tuned model, reinforced on scenes of this turn's clips."""
    c, paths = line.recipe.rl, [s.path for s in shards]
    c = replace(c, seed=line.seed("rl", turn, c.seed))
    track = tracked(line, turn, "rl", c)
    return line.make(
        turn, "rl", "rl", c, [sft_model, *shards],
        lambda d: _reinforce(c, line.store, sft_model.path, paths, d, track),
    )  # fmt: skip


def distilled(
    line: RunContext,
    turn: int,
    teacher: Artefact,
    before: Artefact | None,
    shards: list[Artefact],
    val: Artefact | None = None,
) -> Artefact:
    """A much smaller student of the reinforced model, initialised from the last student."""
    r, paths = line.recipe, [s.path for s in shards]
    c = replace(r.distil.of_turn(turn), seed=line.seed("distil", turn, r.distil.seed))
    polish = replace(r.rl, lr=c.polish_lr, steps=c.polish_steps, seed=line.seed("polish", turn, r.distil.seed))
    mix = line.seed("mix", r.distil.seed)
    ago = before.path if before else None
    track, on = tracked(line, turn, "distil", c), measured_on(line, val)
    return line.make(
        turn, "distil", "distil", {"distil": c, "polish": polish, "mix": mix, "validation": r.validation},
        [teacher, before, *shards, val],
        lambda d: _distil(Distillation(c, polish, mix), line.store, teacher.path, ago, paths, d, (track, on)),
    )  # fmt: skip


def quantised(line: RunContext, turn: int, student: Artefact, shards: list[Artefact]) -> Artefact:
    """The student as an int8 engine."""
    newest = shards[-1].path
    return line.make(
        turn, "quantize", "quantize", {}, [student, shards[-1]], lambda d: _quantise(student.path, newest, d)
    )


MeasuredOn = tuple[ValidationConfig, Path] | None
"""How to measure, and the shard to measure on."""


def measured_on(line: RunContext, val: Artefact | None) -> MeasuredOn:
    return (line.recipe.validation, val.path) if val else None


def validation(on: MeasuredOn, steps: int) -> Validation | None:
    """Evenly spaced samples of the validation shard, measured a few times over `steps` steps."""
    if on is None:
        return None
    r, shard = on
    episodes = load_shard(shard / "shard")
    rows = np.linspace(0, len(episodes) - 1, min(r.samples, len(episodes))).round().astype(int)
    return Validation(select_samples(episodes, rows), max(1, steps // (r.times + 1)), r.keep_best, r.patience)


def fingerprint(backbone: Path) -> str:
    """Hash all bytes of a file or of a directory's files."""
    files = sorted(p for p in backbone.iterdir() if p.is_file()) if backbone.is_dir() else [backbone]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _shards(paths: list[Path]) -> list[Episodes]:
    return [load_shard(p / "shard") for p in paths]


def mixed(paths: list[Path], driven_share: float, seed: int) -> list[Episodes]:
    """Mix the shards of all turns: all samples of the turns in which a model drove, plus as many of the first turn as
    leave the others a share of `driven_share`."""
    first, *driven = _shards(paths)
    if not driven:
        return [first]
    new = sum(len(e) for e in driven)
    old = min(len(first), round(new * (1 - driven_share) / driven_share))
    rows = np.sort(np.random.default_rng(seed).permutation(len(first))[:old])
    return [select_samples(first, rows), *driven]


def select_samples(episodes: Episodes, rows: np.ndarray) -> Episodes:
    """Select samples of an Episodes; frames are shared."""
    arrays = ("frame_index", "ego", "route", "future", "t", "weight", "correction")
    texts = {name: [getattr(episodes, name)[i] for i in rows] for name in ("text", "clip")}
    return replace(episodes, **{name: getattr(episodes, name)[rows] for name in arrays}, **texts)


def tracked(line: RunContext, turn: int | None, kind: str, r: Any) -> Track:
    """The run's tracker for a stage's metrics and recipe."""
    return Track(line.track, f"{line.recipe.name} {kind}{f' turn {turn}' if turn else ''}", dict(leaves(r)))


def files_in(out: Path) -> RunFiles:
    """Files of the training run of the artefact `out`."""
    return RunFiles(out / "state.tmp", out / "metrics.jsonl")


def progress_callback(advance: Callable[..., None], log: OnStep) -> OnStep:
    """A trainer's callback, called every few steps, that advances a bar and logs to a tracker."""
    last = 0

    def on_step(step: int, total: int, metrics: dict[str, float]) -> None:
        nonlocal last
        advance(step - last, note(metrics))
        log(step, total, metrics)
        last = step

    return on_step


def note(metrics: dict[str, float]) -> str:
    """A progress bar's note of about 40 characters: loss or reward, samples per second, MFU, goodput."""
    parts = [f"{name} {metrics[name]:.3f}" for name in ("loss", "reward") if name in metrics]
    if (rate := metrics.get("samples_per_s")) is not None:
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    names = (("mfu", "MFU"), ("goodput", "goodput"))
    return " ".join(parts + [f"{label} {100 * metrics[name]:.0f}%" for name, label in names if name in metrics])


def summary(report: TrainReport) -> dict:
    names = ("samples_per_s", "mfu", "goodput", "scheduling", "runtime")
    loss = float(report.losses[-20:].mean()) if len(report.losses) else float("nan")
    return (
        {"samples": report.samples, "loss": loss} | {name: getattr(report, name) for name in names} | report.validation
    )


def _pretrain(config: PretrainConfig, shards: list[Path], out: Path, track: Track, on: MeasuredOn = None) -> dict:
    with bar("pre-train", config.steps) as advance, track.run(out) as sink:
        report = pretrain(
            _shards(shards), out / "checkpoint", config, files_in(out),
            progress_callback(advance, sink), validation(on, config.steps),
        )  # fmt: skip
    return summary(report)


def _adapt(config: AdaptConfig, base: Path, shard: Path, out: Path, track: Track, on: MeasuredOn = None) -> dict:
    with bar("adapt", config.steps) as advance, track.run(out) as sink:
        report = fine_tune(
            _shards([shard]), out / "checkpoint", base / "checkpoint", config, files_in(out),
            progress_callback(advance, sink), validation(on, config.steps),
        )  # fmt: skip
    return summary(report)


def _sft(
    config: SftConfig, mix: int, base: Path, shards: list[Path], out: Path, track: Track, on: MeasuredOn = None
) -> dict:
    episodes = mixed(shards, config.new_share, mix)
    with bar("fine-tune", config.steps) as advance, track.run(out) as sink:
        report = fine_tune(
            episodes, out / "checkpoint", base / "checkpoint", config, files_in(out),
            progress_callback(advance, sink), validation(on, config.steps),
        )  # fmt: skip
    return summary(report)


class Distillation(NamedTuple):
    """learn: from the teacher; polish: reinforcement on the student's own plans after that; mix: seed of the choice of
    samples."""

    learn: DistilConfig
    polish: GrpoConfig
    mix: int


def _distil(
    config: Distillation,
    store: str,
    teacher: Path,
    before: Path | None,
    shards: list[Path],
    out: Path,
    logs: tuple[Track, MeasuredOn],
) -> dict:
    """First imitate the teacher's outputs on every clip, then optimise the reward of the student's own plans."""
    c, polish, mix = config
    track, on = logs
    init = before / "checkpoint" if before else None
    with bar("distil", c.steps + polish.steps) as advance:
        with track.run(out) as sink:
            report = distil(
                mixed(shards, c.new_share, mix), out / "distilled.tmp", teacher / "checkpoint", c, init,
                files_in(out), progress_callback(advance, sink), validation(on, c.steps),
            )  # fmt: skip
        if not polish.steps:
            os.replace(out / "distilled.tmp", out / "checkpoint")
            return summary(report)
        with track.run(out, "polish") as sink:
            on_step = progress_callback(advance, sink)
            return summary(report) | _polish(polish, store, out / "distilled.tmp", shards, out, on_step)


def _reinforce(config: GrpoConfig, store: str, model: Path, shards: list[Path], out: Path, track: Track) -> dict:
    """Dr. GRPO on situations of all clips; restarts from the beginning after a kill."""
    (out / "metrics.jsonl").unlink(missing_ok=True)
    with bar("reinforce", config.steps) as advance, track.run(out) as sink:
        return _polish(config, store, model / "checkpoint", shards, out, progress_callback(advance, sink))


def _polish(config: GrpoConfig, store: str, model: Path, shards: list[Path], out: Path, on_step: OnStep) -> dict:
    """Optimise the PDM score of plans among the recorded traffic of the clips' scenes."""
    episodes = _shards(shards)
    clips = [c for e in episodes for c in e.clip]
    scenes = {s.id: s for s in scenes_of(store, sorted(set(clips)))}
    at = np.concatenate([np.rint(e.t / DT) for e in episodes]).astype(np.int64)
    rows = np.flatnonzero(at >= HISTORY)
    share = np.concatenate([e.weight for e in episodes])[rows].astype(np.float64)

    reward = PdmReward([scenes[clip] for clip in clips], at, config.reward)
    config = replace(config, validation_states=min(config.validation_states, len(rows) // 4))
    situations = Situations(episodes, rows, share)
    report = grpo(situations, reward, model, out / "checkpoint", config, out / "metrics.jsonl", on_step)
    return {
        "reward_before": report.before,
        "reward_after": report.after,
        "model": "reinforced" if report.kept else "unchanged: reinforcement did not help on situations kept apart",
        "scenes": len(scenes),
        "plans": config.steps * config.states * config.samples,
    }


def _quantise(student: Path, shard: Path, out: Path) -> dict:
    """Export, compare with the float student on clips, record the self-test."""
    fresh(out)
    episodes = load_shard(shard / "shard")
    rows = np.sort(np.random.default_rng(0).permutation(len(episodes))[:CALIBRATION])
    return export_engine(student / "checkpoint", out, episodes.pictures(rows), episodes.ego[rows], episodes.route[rows])
