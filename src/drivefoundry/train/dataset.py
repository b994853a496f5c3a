"""Training batches from Episodes: a pure function of (seed, step), for any number of ranks and restarts.

Axes: N samples, B batch, H W pixels, L text tokens, K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivefoundry.model.blocks.attention import should_pack
from drivefoundry.model.blocks.flow import controls_of
from drivefoundry.model.text import PAD, TextCodec, mirror_text
from drivefoundry.train.config import Augment
from drivefoundry.types import Episodes, require
from drivefoundry_car.vehicle.codec import encode, mirror, soft_targets
from drivefoundry_car.vehicle.embodiment import ROUTE

_PLACE = {f.name: i for i, f in enumerate(ROUTE)}
ROUTE_Y = [i for name, i in _PLACE.items() if name.startswith("y_")]
"""Route features that change their sign in a mirrored sample."""
TURNS = [_PLACE["command_left"], _PLACE["command_right"]]
"""Route features that change places in it."""
GREY = 110


@dataclass(frozen=True)
class EpisodeDataset:
    """All samples of a training run in RAM; frames stay in their episodes' arrays (memory maps will do).

    part (N,), index (N, cameras, 2): which of `frames` and which rows; mirrored: as of Embodiment; tokens (N, 8); text,
    text_mirrored (N, L) ids, PAD where there is no reasoning; mirror (K,) permutes codes; target (N, 8, K) float16: how
    right each code is, summing to 1; of a flow head (N, 8, 2) float32: the controls, see model.flow.controls_of.
    """

    frames: list[dict[str, np.ndarray]]
    part: np.ndarray
    index: np.ndarray
    ego: np.ndarray
    route: np.ndarray
    tokens: np.ndarray
    text: np.ndarray
    text_mirrored: np.ndarray
    weight: np.ndarray
    mirror: np.ndarray
    target: np.ndarray
    future: np.ndarray
    """(N, 8, 3) plans of the labels."""
    mirrored: dict[str, str] | None

    @staticmethod
    def of(
        episodes: list[Episodes],
        codebook: np.ndarray,
        text: TextCodec | None,
        max_text: int,
        tolerance: float = 0.15,
        action: str = "codes",
    ) -> EpisodeDataset:
        """Encode the episodes' plans with the codebook and, given a tokenizer, their reasoning.

        tolerance: m, see drivefoundry_car.vehicle.codec.soft_targets; action: as in ModelConfig. ValueError if there
        are no episodes.
        """
        episodes = [e.validate() for e in episodes if len(e)]
        require(bool(episodes), "training episodes: none given; curate and label some clips first")
        body = episodes[0].embodiment
        for e in episodes:
            why = e.embodiment.differs(body)
            require(not why, f"training episodes: of two embodiments ({why}); train on those of one")
        shapes = {tuple((name, f.shape[1:]) for name, f in e.frames.items()) for e in episodes}
        require(
            len(shapes) == 1, f"training episodes: frames of different sizes {sorted(shapes)}; resample them to one"
        )
        joined = {n: np.concatenate([getattr(e, n) for e in episodes]) for n in ("ego", "route", "future", "weight")}
        speed = joined["ego"][:, -1, 0]
        texts = [t for e in episodes for t in e.text]
        if text is None:
            ids = mirrored = np.full((len(texts), 1), PAD, np.int64)
        else:
            ids = text.encode(texts, max_text)
            mirrored = text.encode([mirror_text(t) for t in texts], max_text)
            longest = max(1, int((np.stack([ids, mirrored]) != PAD).sum(-1).max()))
            ids, mirrored = ids[:, :longest], mirrored[:, :longest]
        return EpisodeDataset(
            frames=[e.frames for e in episodes],
            part=np.repeat(np.arange(len(episodes)), [len(e) for e in episodes]),
            index=np.concatenate([e.frame_index for e in episodes]),
            ego=joined["ego"].astype(np.float32),
            route=joined["route"].astype(np.float32),
            tokens=encode(joined["future"], codebook, speed),
            target=controls_of(joined["future"], speed).astype(np.float32)
            if action == "flow"
            else soft_targets(joined["future"], codebook, speed, tolerance),
            text=ids,
            text_mirrored=mirrored,
            weight=joined["weight"].astype(np.float32),
            mirror=mirror(codebook),
            future=joined["future"],
            mirrored=body.mirrored,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def has_text(self) -> bool:
        return bool((self.text[:, 0] != PAD).any())

    def text_tokens(self, rest: int) -> float:
        """Number of text positions computed for a sample with reasoning and `rest` other tokens: all of them, or only
        the real ones if batches are packed."""
        real = self.text[self.text[:, 0] != PAD] != PAD
        packs = len(real) > 0 and should_pack(torch.from_numpy(real), rest)
        return float(real.sum(1).mean()) if packs else self.text.shape[1]

    def pictures(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Camera -> (B, 2, H, W, 3) uint8 frames of these samples."""
        out = {name: np.empty((len(rows), 2, *f.shape[1:]), np.uint8) for name, f in self.frames[0].items()}
        for part in np.unique(self.part[rows]):
            at = np.flatnonzero(self.part[rows] == part)
            for i, (name, frames) in enumerate(self.frames[part].items()):
                out[name][at] = frames[self.index[rows[at], i]]
        return out


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, as tensors; `action_sum` and `text_sum` are the loss denominators of the whole
    step."""

    frames: dict[str, Tensor]
    ego: Tensor
    route: Tensor
    tokens: Tensor
    text: Tensor | None
    weight: Tensor
    light: Tensor
    target: Tensor
    action_sum: float
    text_sum: float
    noise_seed: int
    """Seed of a flow head's noise, which each rank samples for itself."""

    def __len__(self) -> int:
        return len(self.tokens)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `change` applied to every tensor, including each camera's."""
        made: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, frames={name: change(shown) for name, shown in self.frames.items()}, **made)


class Sampler:
    """Sample order: every sample once per epoch, shuffled by (seed, epoch); position p of a run is always the same
    sample."""

    def __init__(self, n: int, seed: int):
        self.n, self.seed = n, seed
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def rows(self, start: int, count: int) -> np.ndarray:
        out = np.empty(count, np.int64)
        for i in range(count):
            epoch, at = divmod(start + i, self.n)
            if self._epoch[0] != epoch:
                self._epoch = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.n))
            out[i] = self._epoch[1][at]
        return out


def shifted(frames: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift pictures (2, H, W, 3) by a number of pixels, repeating their edges."""
    rows = np.clip(np.arange(frames.shape[1]) - down, 0, frames.shape[1] - 1)
    cols = np.clip(np.arange(frames.shape[2]) - right, 0, frames.shape[2] - 1)
    return frames[:, rows][:, :, cols]


def flipped(frames: dict[str, np.ndarray], rows: np.ndarray, partner: dict[str, str] | None) -> dict[str, np.ndarray]:
    """Camera -> pictures (B, 2, H, W, 3), mirrored where rows (B,) is True."""
    if partner is None or not rows.any():
        return frames
    out = {name: shown.copy() for name, shown in frames.items()}
    for name, shown in out.items():
        shown[rows] = frames[partner[name]][rows, :, :, ::-1]
    return out


def mirrored(target: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Mirror targets (N, 8, K) or controls (N, 8, 2)."""
    return target[:, :, mirror] if target.shape[-1] == len(mirror) else target * np.array([1.0, -1.0], np.float32)


def batches(
    dataset: EpisodeDataset, sampler: Sampler, step: int, size: int, augment: Augment, rank: int = 0, world: int = 1
) -> list[Batch]:
    """This rank's share of step `step`: one batch of samples with text and one without (they differ in length),
    omitting empty ones.

    All random choices are made for the whole step and then divided, so that any number of ranks sees the same samples.
    """
    rng = np.random.default_rng([sampler.seed, step, 1])
    rows = sampler.rows(step * size, size)
    flip = rng.random(size) < (augment.flip if dataset.mirrored else 0.0)  # cameras on one side have no mirror image
    light = 1.0 + augment.brightness_jitter * rng.standard_normal((size, 2)).clip(-2, 2) - [0.0, 1.0]
    forget = rng.random(size) < augment.history_dropout
    blind = rng.random(size) < augment.image_dropout
    shift = np.rint(rng.uniform(-1.0, 1.0, (size, 2)) * [0.5 * augment.max_shift_px, augment.max_shift_px]).astype(int)
    with_reasoning = (np.arange(size) < round(size * augment.text)) & (dataset.text[rows, 0] != PAD)
    words = np.where(flip[:, None], dataset.text_mirrored[rows], dataset.text[rows])
    action_sum = float(dataset.weight[rows].sum())
    text_sum = float(((words != PAD).sum(1) * dataset.weight[rows] * with_reasoning).sum())
    mine = np.arange(size) % world == rank
    length = dataset.text.shape[1]
    out = []
    for with_text in (True, False):
        at = np.flatnonzero(mine & (with_reasoning == with_text))
        if not len(at):
            continue
        r, f = rows[at], flip[at]
        ego, route, target = dataset.ego[r], dataset.route[r], dataset.target[r]
        ego[forget[at], :-1] = 0.0
        ego[f, :, 1] *= -1.0
        turned = route[f]
        turned[:, ROUTE_Y] *= -1.0
        turned[:, TURNS] = turned[:, TURNS[::-1]]
        route[f] = turned
        frames = flipped(dataset.pictures(r), f, dataset.mirrored)
        for i in np.flatnonzero(shift[at].any(1)):
            for shown in frames.values():
                shown[i] = shifted(shown[i], *shift[at[i]])
        for shown in frames.values():
            shown[blind[at]] = GREY
        target[f] = mirrored(target[f], dataset.mirror)
        tokens = np.where(f[:, None], dataset.mirror[dataset.tokens[r]], dataset.tokens[r])
        out.append(
            Batch(
                frames={name: torch.from_numpy(shown) for name, shown in frames.items()},
                ego=torch.from_numpy(ego),
                route=torch.from_numpy(route),
                tokens=torch.from_numpy(tokens),
                text=torch.from_numpy(words[at, :length]) if with_text else None,
                weight=torch.from_numpy(dataset.weight[r]),
                light=torch.from_numpy(light[at].astype(np.float32)),
                target=torch.from_numpy(target),
                action_sum=max(action_sum, 1e-6),
                text_sum=max(text_sum, 1e-6),
                noise_seed=int(np.random.default_rng([sampler.seed, step, 2, rank, with_text]).integers(2**62)),
            )
        )
    return out


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    return batch.each(lambda x: x.to(device))
