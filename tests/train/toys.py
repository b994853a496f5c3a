"""A world small enough for a test: a bright square whose column shows how to steer and whose size how to brake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from drivefoundry.model.config import ModelConfig
from drivefoundry.types import Episodes
from drivefoundry_car.vehicle.codec import decode, fit_codebook
from drivefoundry_car.vehicle.embodiment import CAR

torch.set_num_threads(1)  # such small matmuls only wait for each other on several

TOY = ModelConfig(dim=48, layers=2, heads=3, kv_heads=1, head_dim=16, ffn=96, stem=16, image=(32, 48), max_text=10)
BODY = replace(CAR, cameras=(CAR.cameras[0].scaled(48, 32),))
TURN = (-0.05, 0.0, 0.05)
BRAKE = (-3.0, 0.0)


def toy_episodes(n: int, seed: int = 0, text: bool = True) -> Episodes:
    """n samples of 32x48 px; two frames each, the first one dark."""
    rng = np.random.default_rng(seed)
    side, near = rng.integers(0, 3, n), rng.integers(0, 2, n)
    speed = rng.uniform(4.0, 8.0, n).astype(np.float32)
    frames = rng.integers(0, 40, (2 * n, 32, 48, 3), dtype=np.uint8)
    for i in range(n):
        column, size = 40 - 16 * side[i] - 8, 4 if near[i] == 1 else 14
        frames[2 * i + 1, 8 : 8 + size, column : column + 8] = 230
    book = np.array([[a, c] for a in BRAKE for c in TURN])
    code = near * 3 + side
    future = decode(np.repeat(code[:, None], 8, 1), book, speed)
    ego = np.zeros((n, 4, 3), np.float32)
    ego[:, :, 0], ego[:, :, 2] = speed[:, None], 1.0
    route = np.zeros((n, 12), np.float32)
    route[:, 8] = 1.0
    words = ("turn right", "keep straight", "turn left")
    return Episodes(
        frames={"front": frames},
        frame_index=np.arange(2 * n).reshape(n, 1, 2),
        ego=ego,
        route=route,
        future=future,
        text=[f"{words[s]}, {'brake' if k == 0 else 'go'}" if text else "" for s, k in zip(side, near, strict=True)],
        clip=["clip"] * n,
        t=np.arange(n) * 0.5,
        weight=np.ones(n, np.float32),
        correction=np.zeros(n, bool),
        embodiment=BODY,
    )


def toy_book() -> np.ndarray:
    episodes = toy_episodes(64)
    return fit_codebook(episodes.future, episodes.ego[:, -1, 0])
