"""The engine: plans and reasoning from the quantised student on a CPU, without torch.

Axes: B scenes. A scene's result is bit-identical alone and in a batch, on any number of threads, and on any CPU with
the same numpy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry_car.engine import files, kernels
from drivefoundry_car.vehicle.codec import integrate_controls, votes
from drivefoundry_car.vehicle.embodiment import Embodiment
from drivefoundry_car.vehicle.inputs import ego_changes

EOS = 1
MARKS = 3
"""Number of special text ids (pad, end, unknown), which precede the pieces."""
SPACE = "\u2581"
"""Prefix of pieces that begin a word."""


class Engine:
    """A verified, loaded engine directory; safe to call from several threads.

    threads: maximum per batch, all of this process's cores if None; instructions: "avx512", "avx2" or "plain" instead
    of the CPU's best, for comparison. ValueError names the file that is missing or damaged.
    """

    def __init__(self, path: str | Path, threads: int | None = None, instructions: str = ""):
        self.path = Path(path)
        held = files.read(self.path)
        self.contract: dict[str, Any] = held.contract
        self.codebook = held.codebook
        self.threads = threads or len(os.sched_getaffinity(0))
        self._pieces: list[str] = held.contract["text"]
        model = held.contract["model"]
        self.embodiment = Embodiment.of(held.contract["embodiment"], self.path / files.CONTRACT)
        self._frames = {name: (model["frames"], *size, 3) for name, size in self.embodiment.pictures.items()}
        self._ego = (model["history"], model["ego_features"])
        self._route = (model["route_features"],)
        self._ego_scale = np.tile(np.array(held.contract["ego_scale"], np.float32), model["history"])
        self._kernels = load(held, instructions)

    def plan(
        self, frames: Mapping[str, np.ndarray], ego: np.ndarray, route: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Plan: points (B, 8, 3) float32 of x m, y m, yaw rad in the ego frame, 0.5 s apart, and tokens (B, 8) int64,
        the selected action codes; see `drivefoundry_car.vehicle.codec.votes`.

        frames: for each camera of `embodiment` (B, F, H, W, 3) uint8, oldest first; ego (B, history, state) and route
        (B, features) as `drivefoundry_car.vehicle.inputs` computes them. ValueError for wrong shapes or values that are
        not finite.
        """
        tokens, controls = self._run(frames, ego, route, reason=False)
        return integrate_controls(controls, np.asarray(ego)[:, -1, 0]), tokens.astype(np.int64)

    def reason(self, frames: Mapping[str, np.ndarray], ego: np.ndarray, route: np.ndarray) -> list[str]:
        """Explain the driving decision: B texts, decoded greedily. Inputs and errors as for `plan`."""
        return [self.text(ids) for ids in self._run(frames, ego, route, reason=True)[0]]

    def text(self, ids: np.ndarray) -> str:
        """Decode the ids of one text up to its end mark, as the tokenizer would."""
        end = np.flatnonzero(ids == EOS)
        pieces = [self._pieces[i] for i in ids[: end[0] if len(end) else len(ids)] if MARKS <= i < len(self._pieces)]
        return "".join(p.replace(SPACE, " " if i else "") for i, p in enumerate(pieces))

    def _run(
        self, frames: Mapping[str, np.ndarray], ego: np.ndarray, route: np.ndarray, reason: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        ego, route = np.asarray(ego), np.asarray(route)
        if not isinstance(frames, Mapping) or frames.keys() != self._frames.keys():
            got = ", ".join(map(str, frames)) if isinstance(frames, Mapping) else type(frames).__name__
            raise ValueError(f"engine input frames: cameras must be {', '.join(self._frames)}, got {got}")
        pictures = {name: np.asarray(frames[name]) for name in self._frames}
        first = next(iter(pictures.values()))
        n = len(first) if first.ndim else 0
        expected = {f"frames[{k!r}]": (pictures[k], shape) for k, shape in self._frames.items()}
        for name, (array, shape) in {**expected, "ego": (ego, self._ego), "route": (route, self._route)}.items():
            if array.shape != (n, *shape):
                raise ValueError(f"engine input {name}: shape {array.shape}, must be (B, {', '.join(map(str, shape))})")
        for name, array in pictures.items():
            if array.dtype != np.uint8:
                raise ValueError(f"engine input frames[{name!r}]: {array.dtype}, must be uint8")
        if not (np.isfinite(ego).all() and np.isfinite(route).all()):
            raise ValueError("engine inputs ego and route: must be finite")
        state = ego.reshape(n, len(self._ego_scale)).astype(np.float32) * self._ego_scale
        if self.contract["model"]["ego_changes"]:
            state = ego_changes(ego)
        speed = np.ascontiguousarray(ego[:, -1, 0], np.float32)
        shown = [np.ascontiguousarray(p) for p in pictures.values()]
        return self._kernels.run(shown, padded(state), padded(route), speed, reason, self.threads)


def padded(x: np.ndarray, axis: int = 1) -> np.ndarray:
    """Pad an axis with zeros to a multiple of 16, the kernels' width; contiguous. Floats become float32."""
    more = [(0, -x.shape[a] % 16 if a == axis else 0) for a in range(x.ndim)]
    return np.ascontiguousarray(np.pad(x if x.dtype.kind == "i" else x.astype(np.float32), more))


def load(held: files.Files, instructions: str) -> kernels.Kernels:
    """Load verified files into the kernels. ValueError if the tensors do not match the model's shape."""
    model, ids, t = held.contract["model"], held.contract["vocabulary"], held.tensors
    out = kernels.Kernels(
        {
            **{k: v for k, v in model.items() if k in kernels.SHAPE},
            "plan": held.contract["plan"],
            **{k: ids[k] for k in ("task", "think", "act")},
        },
        sizes(model),
        instructions,
    )
    names = [*kernels.MATRICES, *(f"blocks.{i}.{part}" for i in range(model["layers"]) for part in kernels.LAYER)]
    _fit(t, model)
    for place, name in enumerate(names):
        w, scale, bias = t[f"{name}.weight"], t[f"{name}.scale"], t.get(f"{name}.bias")
        together = [w]
        if name.endswith((".q", ".kv")):  # both read the same quantised activations
            stem = name.rpartition(".")[0]
            together = [t[f"{stem}.q.weight"], t[f"{stem}.kv.weight"]]
        if name == "stem.cell":
            w, scale, bias = padded(w, 0), padded(scale, 0), padded(t["stem.cell.bias"], 0)
        if name == "stem.patch":  # one group of columns per cell, padded to the stem's width
            w = padded(w.reshape(len(w), -1, model["stem"]), 2).reshape(len(w), -1)
        out.matrix(place, padded(w), scale, bias, kernels.activation_limit(*together))
    embed = [t[f"embed.{k}.weight"] * t[f"embed.{k}.scale"][:, None] for k in ("text", "codes")]
    embed = np.concatenate([*embed, t["embed.marks"]])
    tables = [embed, t["stem.position"], rope(held.contract), votes(held.codebook), held.codebook.T]
    norms = [t[f"blocks.{i}.{n}"] for i in range(model["layers"]) for n in ("norm1", "norm2")]
    for place, values in enumerate([*tables, *norms, t["norm"]]):
        out.floats(place, values)
    return out


def _fit(tensors: dict[str, np.ndarray], model: dict[str, Any]) -> None:
    """Raise ValueError unless the tensors are exactly those of a model of this shape."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    every, d = shapes(model), model["dim"]
    blocks = [f"blocks.{i}." for i in range(model["layers"])]
    for name, (out, into) in every.items():
        for place in blocks if name in kernels.LAYER else [""]:
            expected |= {f"{place}{name}.weight": ((out, into), "i"), f"{place}{name}.scale": ((out,), "f")}
    for name in ("stem.cell", "stem.patch", "ego_in", "ego_out", "route_in", "route_out"):
        expected[f"{name}.bias"] = ((every[name][0],), "f")
    norms = [f"{place}{norm}" for place in blocks for norm in ("norm1", "norm2")]
    expected |= {name: ((d,), "f") for name in (*norms, "norm")}
    expected["stem.position"] = ((patches(model), d), "f")
    expected["embed.marks"] = ((len(tensors.get("embed.marks", ())), d), "f")
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "is not part of the model"
        raise ValueError(f"{files.WEIGHTS}: {name} {what}; quantize the engine again")
    for name, (shape, kind) in expected.items():
        if tensors[name].shape != shape or tensors[name].dtype.kind != kind:
            got = f"{tensors[name].dtype} {tensors[name].shape}"
            raise ValueError(f"{files.WEIGHTS}: {name} must have shape {shape}, got {got}; quantize the engine again")


def sizes(model: dict[str, Any]) -> list[tuple[int, int]]:
    """Height and width of each camera's picture, px, front camera first."""
    return [(h, w) for h, w in (model["image"], *(other[1:] for other in model["others"]))]


def patches(model: dict[str, Any]) -> int:
    """Number of image tokens of all cameras."""
    return sum(h // model["patch"] * (w // model["patch"]) for h, w in sizes(model))


def shapes(model: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Shape (out, in) of every matrix of a model."""
    d, k, cell = model["dim"], model["head_dim"], 8
    cells = (model["patch"] // cell) ** 2
    return {
        "stem.cell": (model["stem"], model["frames"] * 3 * cell * cell),
        "stem.patch": (d, cells * model["stem"]),
        "ego_in": (d, model["history"] * model["ego_features"]),
        "ego_out": (d, d),
        "route_in": (d, model["route_features"]),
        "route_out": (d, d),
        "embed.text": (model["text_vocab"], d),
        "embed.codes": (model["codes"], d),
        "q": (model["heads"] * k, d),
        "kv": (2 * model["kv_heads"] * k, d),
        "o": (d, model["heads"] * k),
        "gate_up": (2 * model["ffn"], d),
        "down": (d, model["ffn"]),
    }


def rope(contract: dict[str, Any]) -> np.ndarray:
    """(2, positions, head_dim / 2) cosine and sine for the rotary positions of prefix, text and actions (RoFormer)."""
    model = contract["model"]
    prefix = patches(model) + 3
    rate = model["rope_theta"] ** (-np.arange(0, model["head_dim"], 2) / model["head_dim"])
    angle = np.arange(prefix + model["max_text"] + contract["plan"])[:, None] * rate
    return np.stack([np.cos(angle), np.sin(angle)])
