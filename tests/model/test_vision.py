"""Vision: several cameras and moments, and the tower."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry.model.config import ModelConfig
from drivefoundry.model.vla import VLA

TINY = ModelConfig(dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, stem=16, image=(32, 48), max_text=8)
VIT = {"vision": "vit", "vit_dim": 32, "vit_layers": 2, "vit_heads": 2, "vit_ffn": 48}


WIDE = (("rear", 16, 64), ("left", 32, 32))


def model(config: ModelConfig) -> VLA:
    torch.manual_seed(0)
    return VLA(config.validate()).eval()


def seen(batch: int, config: ModelConfig = TINY) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    shape = {name: (batch, config.frames, *size, 3) for name, size in config.cameras.items()}
    return {name: torch.from_numpy(rng.integers(0, 256, s, dtype=np.uint8)) for name, s in shape.items()}


def test_cameras_and_moments_stand_one_after_the_other():
    m = model(replace(TINY, others=(("rear", 16, 32),), frames=4))
    frames, light = seen(3, m.config), torch.tensor([[1.1, 0.2], [0.9, -0.1], [1.0, 0.0]])
    tokens = m.stem(frames, light).detach()
    assert m.config.prefix == 3 * (6 + 2) + 3
    assert m.stem.moment is not None
    at = 0
    for name, position in zip(m.config.cameras, m.stem.position.split([6, 2]), strict=True):
        for k in range(3):
            alone = m.stem.patches_of(frames[name][:, k : k + 2], light, position) + m.stem.moment[k]
            assert torch.allclose(tokens[:, at : at + len(position)], alone, atol=1e-6)
            at += len(position)
    other = {**frames, "rear": 255 - frames["rear"]}
    changed = (m.stem(other, light) != tokens).flatten(2).any(2)
    assert not changed[:, :18].any()
    assert changed[:, 18:].all()


@pytest.mark.parametrize("change", [VIT, {"others": WIDE, "frames": 3}, {**VIT, "others": WIDE}])
def test_every_shape_drives_and_learns(change):
    config = replace(TINY, **change)
    m = model(config)
    inputs = (seen(2, config), torch.ones(2, 4, 3), torch.ones(2, 12))
    codes = m.act(*inputs)[:, 0]
    text = torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]])
    logits = m(*inputs, text, codes)
    assert torch.equal(m(*inputs, None, codes).action.argmax(-1), codes)
    assert logits.text is not None
    (logits.action.square().mean() + logits.text.square().mean()).backward()
    assert not [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_patches_of_the_tower_see_each_other():
    frames = seen(1)
    other = {"front": frames["front"].clone()}
    other["front"][:, :, :8, :8] = 0
    for config, spreads in ((replace(TINY, **VIT), True), (TINY, False)):
        m = model(config)
        far = (m.stem(frames) - m.stem(other)).detach()[:, 1:].abs().max()
        assert (far > 1e-4) == spreads
