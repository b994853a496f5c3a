"""Eyes: several cameras and moments, and the tower."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry.model.config import ModelConfig
from drivefoundry.model.vla import VLA

TINY = ModelConfig(dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, stem=16, image=(32, 48), max_text=8)
VIT = {"vision": "vit", "vit_dim": 32, "vit_layers": 2, "vit_heads": 2, "vit_ffn": 48}


def model(config: ModelConfig) -> VLA:
    torch.manual_seed(0)
    return VLA(config.validate()).eval()


def seen(batch: int, *before: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *before, *TINY.image, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_cameras_and_moments_stand_one_after_the_other():
    m = model(replace(TINY, cameras=2, frames=4))
    one = model(TINY)
    one.load_state_dict(m.state_dict(), strict=False)
    frames, light = seen(3, 2, 4), torch.tensor([[1.1, 0.2], [0.9, -0.1], [1.0, 0.0]])
    tokens = m.stem(frames, light).detach().view(3, 2, 3, TINY.patches, TINY.dim)
    assert m.config.prefix == 6 * TINY.patches + 3
    assert m.stem.camera is not None
    assert m.stem.moment is not None
    for v in range(2):
        for k in range(3):
            alone = one.stem(frames[:, v, k : k + 2], light) + m.stem.camera[v] + m.stem.moment[k]
            assert torch.allclose(tokens[:, v, k], alone, atol=1e-6)


@pytest.mark.parametrize("change", [VIT, {"cameras": 2, "frames": 3}, {**VIT, "cameras": 3}])
def test_every_shape_drives_and_learns(change):
    config = replace(TINY, **change)
    m = model(config)
    before = (config.cameras, config.frames) if config.cameras > 1 else (config.frames,)
    inputs = (seen(2, *before), torch.ones(2, 4, 3), torch.ones(2, 12))
    codes = m.act(*inputs)[:, 0]
    text = torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]])
    logits = m(*inputs, text, codes)
    assert torch.equal(m(*inputs, None, codes).action.argmax(-1), codes)
    assert logits.text is not None
    (logits.action.square().mean() + logits.text.square().mean()).backward()
    assert not [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_patches_of_the_tower_see_each_other():
    frames = seen(1, 2)
    other = frames.clone()
    other[:, :, :8, :8] = 0
    for config, spreads in ((replace(TINY, **VIT), True), (TINY, False)):
        m = model(config)
        far = (m.stem(frames) - m.stem(other)).detach()[:, 1:].abs().max()
        assert (far > 1e-4) == spreads
