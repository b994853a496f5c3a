"""Export a float student's checkpoint as an int8 engine directory, with a report of the loss in accuracy.

Weights are int8 with one scale per output channel, rounded so that the layer's outputs change least (see `rounding`).
Norms, biases and positions stay fp32. Activations are not part of the export: the engine quantises them row by row at
run time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from drivefoundry import outputs
from drivefoundry.model.checkpoint import Loaded, load_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.vla import CodebookVote
from drivefoundry.quantize.rounding import input_moments, rounded
from drivefoundry.types import require
from drivefoundry_car import arrays
from drivefoundry_car.engine import Engine, files
from drivefoundry_car.update.selftest import SELF_TEST, record_self_test
from drivefoundry_car.vehicle.codec import integrate_controls

INT8, INT11 = 127, 1023
FINE = ("embed.codes",)
"""Tensors with 11 bits: action codes are similar to each other, and the smallest difference decides."""
WIDTH = 16
"""SIMD width of the kernels: dim, ffn and head_dim must be multiples of it."""
PLAIN = ("qkv_bias", "tied", "norm_eps", "frames", "vision", "text_shift", "action", "rope_scaling")
"""Fields for which the kernels support only one value, that of the sizes trained from scratch."""
LONGEST = 512
"""Maximum number of positions that the kernels attend to."""
FILES = (files.WEIGHTS, files.CODEBOOK, SELF_TEST, files.CONTRACT)


def export_engine(
    checkpoint: Path, out: Path, frames: dict[str, np.ndarray], ego: np.ndarray, route: np.ndarray, self_test: int = 16
) -> dict[str, float]:
    """Write the engine files of a checkpoint directory to `out`, which may exist, and return a report.

    frames of each camera (N, 2, H, W, 3) uint8, ego (N, history, state), route (N, features): calibration samples.
    Every other one is used for rounding, the rest for comparing the engine with the float student; the first
    `self_test` samples are shipped for the car's self-test.

    Report: token_agreement, share of tokens equal to the float student's; plan_agreement, share of whole plans equal;
    plan_error_m, mean distance of plan points; weight_error, relative RMS over all matrices, and worst_weight_error,
    that of the worst one; bytes of the engine without its self-test, and compression, the checkpoint's fp32 bytes
    divided by that. ValueError for shapes that cannot be exported, and for unrelated files in place of engine files.
    """
    loaded, out = load_checkpoint(checkpoint), Path(out)
    check(loaded.config)
    require(len(ego) > 0, "calibration samples: none given; label some clips first")
    some = len(ego) > 1
    half, other = (slice(0, None, 2), slice(1, None, 2)) if some else (slice(None), slice(None))
    moments = input_moments(loaded.model, _of(frames, half), ego[half], route[half])
    tensors, errors = quantised(loaded.model.state_dict(), loaded.config, moments)
    with outputs.among(out, FILES, files.CONTRACT) as aside:  # contract last: without it, the files are not an engine
        names = write(aside, loaded, tensors)
        size = sum((aside / name).stat().st_size for name in names)
        engine = Engine(aside)
        record_self_test(engine, aside, _of(frames, slice(self_test)), ego[:self_test], route[:self_test])
        (aside / files.CONTRACT).write_bytes(files.seal(with_hashes(engine.contract, aside, [*names[1:], SELF_TEST])))
        report = {**compared(loaded, Engine(aside), _of(frames, other), ego[other], route[other]), **errors}
        report["compression"] = (Path(checkpoint) / "model.safetensors").stat().st_size / size
        report["bytes"] = float(size)
    return report


def _of(frames: dict[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    return {name: f[rows] for name, f in frames.items()}


def check(config: ModelConfig) -> None:
    """Raise ValueError if the engine's kernels cannot run this shape."""
    for name in ("dim", "ffn", "head_dim", "codes"):
        value = getattr(config, name)
        require(value % WIDTH == 0, f"ModelConfig.{name}: must be a multiple of {WIDTH}, got {value}")
    for name in PLAIN:
        value, required = getattr(config, name), getattr(ModelConfig, name)
        require(
            value == required, f"ModelConfig.{name}: the engine only runs {required!r}, got {value!r}; distil a student"
        )
    longest = config.prefix + max(config.max_text, config.plan)
    require(longest <= LONGEST, f"ModelConfig: {longest} positions, the engine has {LONGEST}; use larger patches")


def quantised(
    state: Mapping[str, torch.Tensor], config: ModelConfig, moments: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Quantise the model's tensors, given the input moments of its linear layers; returns tensors and errors."""
    state = dict(state)
    parts = torch.split(state.pop("embed"), [config.text_vocab, config.codes, config.vocab - config.task_id])
    floats = {k.removeprefix("decoder."): v.numpy() for k, v in state.items()}
    matrices = {k.removesuffix(".weight"): v for k, v in floats.items() if k.endswith(".weight")}
    matrices |= {"embed.text": parts[0].numpy(), "embed.codes": parts[1].numpy()}
    tensors = {k: v for k, v in floats.items() if not k.endswith(".weight")} | {"embed.marks": parts[2].numpy()}
    lost, energy, worst = 0.0, 0.0, 0.0
    for name, w in matrices.items():
        read = moments.get(name, moments.get(f"decoder.{name}"))
        q, scale = rounded(w, INT11 if name in FINE else INT8, read)
        tensors[f"{name}.weight"], tensors[f"{name}.scale"] = q, scale
        off, all_ = float(((q * scale[:, None] - w) ** 2).sum()), float((w**2).sum())
        lost, energy, worst = lost + off, energy + all_, max(worst, (off / max(all_, 1e-30)) ** 0.5)
    return tensors, {"weight_error": (lost / energy) ** 0.5, "worst_weight_error": worst}


def write(folder: Path, loaded: Loaded, tensors: dict[str, np.ndarray]) -> list[str]:
    """Write the engine's files except the self-test; returns their names, the contract's first."""
    table, blob = {}, io.BytesIO()
    for name, value in sorted(tensors.items()):
        table[name] = (value.dtype.name, list(value.shape), blob.tell())
        blob.write(np.ascontiguousarray(value, files.DTYPES[value.dtype.name]).tobytes())
    (folder / files.WEIGHTS).write_bytes(blob.getvalue())
    arrays.write(folder / files.CODEBOOK, {"codebook": loaded.codebook})
    made = contract(loaded, table)
    names = [files.WEIGHTS, files.CODEBOOK]
    (folder / files.CONTRACT).write_bytes(files.seal(with_hashes(made, folder, names)))
    return [files.CONTRACT, *names]


def contract(loaded: Loaded, table: dict) -> dict:
    """Everything a car must know to feed this engine and read its outputs."""
    c, body = loaded.config, loaded.embodiment
    state = ", ".join(f"{feature.name} {feature.unit}" for feature in body.state)
    return {
        "format": files.FORMAT,
        "inputs": {
            "frames": {
                name: {"shape": ["B", c.frames, h, w, 3], "dtype": "uint8", "meaning": f"RGB, {body.frame_dt} s apart"}
                for name, (h, w) in c.cameras.items()
            },
            "ego": {
                "shape": ["B", c.history, c.ego_features],
                "dtype": "float32",
                "meaning": f"{state}; {body.history_dt} s apart, the last now",
            },
            "route": {
                "shape": ["B", c.route_features],
                "dtype": "float32",
                "meaning": "drivefoundry_car.vehicle.inputs.route_features",
            },
        },
        "outputs": {
            "points": {"shape": ["B", c.plan, 3], "meaning": "x m, y m, yaw rad in the ego frame at 0.5 .. 4.0 s"},
            "tokens": {"shape": ["B", c.plan], "meaning": "selected rows of codebook.safetensors, one for each 0.5 s"},
        },
        "embodiment": body.to_dict(),
        "model": asdict(c),
        "plan": c.plan,
        "ego_scale": loaded.model.ego_scale.tolist(),
        "vocabulary": {
            "text": [0, c.text_vocab],
            "codes": [c.text_vocab, c.task_id],
            "task": c.task_id,
            "think": c.think_id,
            "act": c.act_id,
        },
        "text": loaded.tokenizer.pieces(),
        "tensors": table,
    }


def with_hashes(made: dict, folder: Path, names: list[str]) -> dict:
    """Add the SHA-256 of the other files to the contract."""
    return {**made, "files": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}}


def compared(
    loaded: Loaded, engine: Engine, frames: dict[str, np.ndarray], ego: np.ndarray, route: np.ndarray
) -> dict[str, float]:
    """Deviation of the engine's greedy plans from the float student's on N samples."""
    points, tokens = engine.plan(frames, ego, route)
    codes, controls, vote = [], [], CodebookVote.of(loaded.codebook)
    for i in range(0, len(ego), 128):
        f = {name: torch.from_numpy(np.array(a[i : i + 128])) for name, a in frames.items()}
        e, r = (torch.from_numpy(np.array(a[i : i + 128])) for a in (ego, route))
        for kept, part in zip((codes, controls), loaded.model.plan(f, e, r, vote), strict=True):
            kept.append(part.numpy())
    want = np.concatenate(codes)
    way = integrate_controls(np.concatenate(controls), ego[:, -1, 0]) - points
    return {
        "token_agreement": float((tokens == want).mean()),
        "plan_agreement": float((tokens == want).all(1).mean()),
        "plan_error_m": float(np.hypot(way[..., 0], way[..., 1]).mean()),
    }
