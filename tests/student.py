"""A student small enough to train inside a test, and its training samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from drivefoundry.model.checkpoint import save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.text import PAD, TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA
from drivefoundry_car.vehicle.codec import fit_codebook
from drivefoundry_car.vehicle.embodiment import CAR

TINY = ModelConfig(
    dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, image=(32, 48), stem=24, text_vocab=160, max_text=12,
    codes=32,
)  # fmt: skip
BODY = replace(CAR, cameras=(CAR.cameras[0].scaled(48, 32),))
"""The car with a camera as small as the student's eyes."""
TEXTS = ["The light is red: stop.", "The road is clear.", "Slow down, a car is ahead.", "Turn left."]


def samples(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """frames by camera, ego, route and which of 12 situations: a bright side, a speed, a command."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, n)
    frames = rng.integers(0, 60, (n, 2, *TINY.image, 3))
    bright = np.where((kind % 2)[:, None, None, None, None] == (np.arange(48) // 24)[:, None], 120, 0)
    ego = np.ones((n, 4, 3), np.float32)
    ego[..., 0] = (kind // 2 % 3 * 5)[:, None] + rng.uniform(0, 1, (n, 4))
    ego[..., 1] = rng.normal(0, 0.02, (n, 4))
    route = rng.normal(0, 0.3, (n, 12)).astype(np.float32)
    route[:, 6] = kind // 6
    return {"front": (frames + bright).astype(np.uint8)}, ego, route, kind


def part(frames: dict[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    """Some rows of each camera's frames."""
    return {name: f[rows] for name, f in frames.items()}


def make_student(folder: Path, steps: int = 100) -> Path:
    """A checkpoint directory: a model that has learnt a plan and a text for each situation."""
    torch.manual_seed(0)
    model, tokenizer = VLA(TINY), TextCodec(train_tokenizer(TEXTS, TINY.text_vocab))
    frames, ego, route, kind = samples(64 * 16, seed=1)
    tokens = torch.from_numpy((kind[:, None] * 5 + np.arange(8) * (1 + kind[:, None] % 3)) % TINY.codes)
    text = torch.from_numpy(tokenizer.encode([TEXTS[k % 4] for k in kind], TINY.max_text))
    shown, told, way = (torch.from_numpy(a) for a in (frames["front"], ego, route))
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(steps):
        rows = torch.arange(64) + 64 * (step % 16)
        logits = model({"front": shown[rows]}, told[rows], way[rows], text[rows], tokens[rows])
        assert logits.text is not None
        loss = F.cross_entropy(logits.action.flatten(0, 1), tokens[rows].flatten())
        said = text[rows] != PAD
        words = logits.text if logits.text.ndim == 2 else logits.text[said]  # packed, or not
        loss = loss + F.cross_entropy(words, text[rows][said])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), TINY.codes)
    save_checkpoint(folder, model, book, tokenizer, BODY)
    return folder
