"""Presets: every shape has its stated size, by a formula that agrees with the model itself."""

from dataclasses import replace

import pytest
import torch

from drivefoundry.model.presets import PRESETS, SIZES, memory, parameters, preset
from drivefoundry.model.vla import VLA

UNIT = {"M": 1e6, "B": 1e9}


def counted(config) -> int:
    with torch.device("meta"):
        return VLA(config).parameter_count()


@pytest.mark.parametrize("size", SIZES)
def test_presets_are_the_size_they_say(size):
    count = counted(preset(size))
    assert count == parameters(preset(size))
    assert count == pytest.approx(float(size[:-1]) * UNIT[size[-1]], rel=0.2)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "flow"},
        {"vision": "vit", "vit_dim": 64, "vit_layers": 2, "vit_heads": 2, "vit_ffn": 96},
        {"others": (("rear", 64, 96), ("left", 32, 160)), "frames": 4},
        {"tied": False, "qkv_bias": True, "patch": 32, "image": (64, 96)},
    ],
)
def test_the_formula_knows_every_part(change):
    config = replace(PRESETS["0.3M"], **change).validate()
    assert parameters(config) == counted(config)


@pytest.mark.parametrize(
    ("size", "public"),
    [
        ("135M", 134_515_008),
        ("2B", 1_543_714_304),
        ("8B", 8_030_261_248),
        ("32B", 32_763_876_352),
        ("72B", 72_706_203_648),
    ],
)
def test_large_decoders_are_the_public_models(size, public):
    """Their published parameter counts; ours have 3 + 128 + 8 more rows of vocabulary, and vision."""
    c = preset(size)
    with torch.device("meta"):
        model = VLA(c)
    rows = model.embed.numel() + (0 if model.own_head is None else model.own_head.numel())
    more = (1 if c.tied else 2) * (3 + c.codes + 8) * c.dim
    assert sum(p.numel() for p in model.decoder.parameters()) + rows - more == public


def test_a_model_from_the_meta_device_is_reset_like_any_other():
    config = replace(PRESETS["0.1M"], vision="vit", vit_dim=32, vit_layers=1, vit_heads=2, vit_ffn=48, action="flow")
    with torch.device("meta"):
        late = VLA(config)
    late.to_empty(device="cpu")
    for tensor in (*late.parameters(), *late.buffers()):
        tensor.data.fill_(torch.nan)
    early = VLA(config)
    for m in (early, late):
        torch.manual_seed(1)
        m.reset()
    for (name, a), b in zip(early.named_parameters(), late.parameters(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(early.buffers(), late.buffers(), strict=True):
        assert torch.equal(a, b)


def test_memory_is_what_the_tensors_weigh():
    config = preset("0.3M")
    model = VLA(config)
    told = memory(config)
    assert told.weights == sum(p.numel() * 2 for p in model.parameters())
    assert told.training == 16 * model.parameter_count()
    frames = {"front": torch.zeros(1, 2, 64, 160, 3, dtype=torch.uint8)}
    cache = model.start(frames, torch.zeros(1, 4, 3), torch.zeros(1, 12), 0)
    positions = cache.keys[0].shape[1]
    assert told.cache * positions == sum(x.numel() * 2 for x in (*cache.keys, *cache.values))
    assert told.recomputed < told.activations
    assert memory(preset("72B")).training > 1e12
