"""Save a trained model, and everything needed to use it, as a directory; load it again.

model.safetensors (fp32, the Hugging Face tensor layout), config.json, embodiment.json, tokenizer.json,
codebook.safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drivefoundry import outputs
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.tensors import read_tensors, write_tensors
from drivefoundry.model.text import TextCodec
from drivefoundry.model.vla import VLA
from drivefoundry.types import require
from drivefoundry_car import arrays
from drivefoundry_car.vehicle import embodiment as vehicles
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory; the model has fp32 weights and is in eval mode."""

    model: VLA
    codebook: np.ndarray
    tokenizer: TextCodec
    config: ModelConfig
    embodiment: Embodiment = CAR

    def __post_init__(self) -> None:
        own, configured = self.tokenizer.shift, self.config.text_shift
        fix = "shapes above 64M begin with a backbone and its tokenizer (drivefoundry.model.backbones.load.adopt)"
        require(own == configured, f"ModelConfig.text_shift: {configured}, the tokenizer's is {own}; {fix}")


def save_checkpoint(
    folder: Path, model: VLA, codebook: np.ndarray, tokenizer: TextCodec, embodiment: Embodiment = CAR
) -> None:
    """Write a checkpoint to a temporary directory and move it into place, replacing an older one. ValueError, with
    nothing touched, if the folder holds any other files."""
    tensors = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
    with outputs.folder(folder, "config.json") as aside:
        write_tensors(aside / "model.safetensors", tensors)
        (aside / "config.json").write_text(model.config.to_json())
        (aside / "embodiment.json").write_text(json.dumps(embodiment.to_dict(), indent=1, sort_keys=True))
        (aside / "tokenizer.json").write_bytes(tokenizer.raw)
        arrays.write(aside / "codebook.safetensors", {"codebook": codebook})


def load_checkpoint(folder: Path) -> Loaded:
    """Read a checkpoint directory. ValueError names a missing or foreign file."""
    folder = Path(folder)
    for name in ("model.safetensors", "config.json", "embodiment.json", "tokenizer.json", "codebook.safetensors"):
        require(
            (folder / name).is_file(),
            f"{folder}: no {name}; not a checkpoint (`drivefoundry run --until train` trains one)",
        )
    config = ModelConfig.from_json((folder / "config.json").read_bytes(), folder / "config.json")
    tensors = read_tensors(folder / "model.safetensors")
    model = VLA(config)
    configured = model.state_dict()
    require(set(tensors) == set(configured), f"{folder}/model.safetensors: tensors do not match config.json")
    for name, value in configured.items():
        require(
            tensors[name].shape == tuple(value.shape),
            f"{folder}/model.safetensors: {name} has shape {tensors[name].shape}",
        )
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    codebook = arrays.read(folder / "codebook.safetensors", ["codebook"])["codebook"]
    require(
        codebook.shape == (config.codes, 2),
        f"{folder}/codebook.safetensors: must have shape ({config.codes}, 2), got {codebook.shape}",
    )
    tokenizer = TextCodec((folder / "tokenizer.json").read_bytes(), config.text_shift)
    body = vehicles.from_json((folder / "embodiment.json").read_bytes(), folder / "embodiment.json")
    return Loaded(model.eval(), codebook, tokenizer, config, body)
