"""The VLA: sizes, causality, the key-value cache, groups, text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivefoundry.model.blocks.attention import FAR
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.presets import preset
from drivefoundry.model.text import EOS, PAD
from drivefoundry.model.vla import VLA, CodebookVote, ego_changes
from drivefoundry_car.vehicle import inputs as car_inputs

TINY = ModelConfig(dim=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=64, stem=16, image=(32, 48), max_text=10)


def situation(batch: int, config: ModelConfig = TINY, seed: int = 0):
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.integers(0, 256, (batch, 2, *config.image, 3), dtype=np.uint8))
    ego, route = (torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in ((batch, 4, 3), (batch, 12)))
    return {"front": frames}, ego, route


def model(config: ModelConfig = TINY, seed: int = 0) -> VLA:
    torch.manual_seed(seed)
    return VLA(config).eval()


def words(*rows: list[int], length: int = 6) -> torch.Tensor:
    return torch.tensor([[*r, *[PAD] * (length - len(r))] for r in rows])


def test_greedy_actions_equal_the_full_forward():
    m, inputs = model(), situation(3)
    codes = m.act(*inputs)[:, 0]
    logits = m(*inputs, None, codes).action
    assert torch.equal(logits.argmax(-1), codes)


def test_actions_after_text_equal_the_full_forward():
    m, inputs = model(), situation(3)
    text = words([5, 6, 7, EOS], [9, EOS], [])
    codes = m.act(*inputs, text=text)[:, 0]
    assert torch.equal(m(*inputs, text, codes).action.argmax(-1), codes)
    bare = m(*inputs, None, codes).action
    assert torch.allclose(m(*inputs, text, codes).action[2], bare[2], atol=1e-5), "padding alone must change nothing"
    assert not torch.allclose(m(*inputs, text, codes).action[0], bare[0], atol=1e-3), "text must be seen by the actions"


def test_generated_text_equals_the_full_forward():
    m, inputs = model(), situation(2)
    ids = m.generate_text(m.start(*inputs, TINY.max_text))
    logits = m(*inputs, ids, torch.zeros(2, 8, dtype=torch.long)).text
    assert logits is not None
    said = logits.argmax(-1)
    for row, own in zip(ids, said, strict=True):
        end = int((row == EOS).nonzero()[0])
        assert torch.equal(row[: min(end + 1, TINY.max_text - 1)], own[: min(end + 1, TINY.max_text - 1)])
        assert (row[end + 1 :] == PAD).all()


def test_reasoning_can_be_sampled():
    m, inputs = model(), situation(2)
    texts = [
        m.generate_text(m.start(*inputs, TINY.max_text), 9, 1.0, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert ((texts[2] == EOS).sum(1) == 1).all()


def test_groups_equal_single_answers():
    m, inputs = model(), situation(2)
    codes = torch.randint(0, TINY.codes, (2, 3, 8), generator=torch.Generator().manual_seed(1))
    together = m(*inputs, None, codes).action
    for g in range(3):
        assert torch.allclose(together[:, g], m(*inputs, None, codes[:, g]).action, atol=1e-5)


def test_sampling_follows_the_model_and_the_seed():
    m, inputs = model(), situation(2)
    a, b = (m.act(*inputs, temperature=1.0, n=4, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert a.shape == (2, 4, 8)
    assert torch.equal(a, b)
    frames, *told = inputs
    shown, *crowd = (x[:1].expand(500, *x.shape[1:]) for x in (frames["front"], *told))
    many = m.act({"front": shown}, *crowd, temperature=1.0, n=8, generator=torch.Generator().manual_seed(4))
    wanted = torch.softmax(
        m({"front": frames["front"][:1]}, *(x[:1] for x in told), None, many[:1, 0]).action[0, 0], -1
    )
    seen = torch.bincount(many[..., 0].flatten(), minlength=TINY.codes) / 4000
    assert (seen - wanted).abs().max() < 0.03


def test_later_codes_do_not_reach_back():
    m, inputs = model(), situation(1)
    codes = torch.arange(8)[None]
    changed = codes.clone()
    changed[:, 5] = 77
    one, two = m(*inputs, None, codes).action, m(*inputs, None, changed).action
    assert torch.equal(one[:, :6], two[:, :6])
    assert not torch.allclose(one[:, 6:], two[:, 6:], atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_prefix_sees_as_configured(bidirectional):
    mask = model(replace(TINY, bidirectional=bidirectional))._mask(2, 1)[0]
    assert (mask[0, 5] == 0) == bidirectional
    assert (mask[: TINY.prefix, TINY.prefix :] == FAR).all()


def test_gradients_reach_every_weight():
    m = model()
    logits = m(*situation(2), words([5, EOS], [6, 7, EOS]), torch.zeros(2, 8, dtype=torch.long))
    assert logits.text is not None
    (logits.action.square().mean() + logits.text.square().mean()).backward()
    missing = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_a_separate_head_a_bias_and_scaled_positions_change_the_answer():
    m, inputs, codes = model(), situation(2), torch.zeros(2, 8, dtype=torch.long)
    plain = m(*inputs, None, codes).action
    for change in ({"tied": False}, {"qkv_bias": True}, {"rope_scaling": (8.0, 1.0, 4.0, 32)}, {"norm_eps": 0.1}):
        other = model(replace(TINY, **change))
        other.load_state_dict(m.state_dict(), strict=False)
        with torch.no_grad():
            for name, p in other.named_parameters():
                if name not in m.state_dict():
                    p.normal_(generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(other(*inputs, None, codes).action, plain, atol=1e-3), change


def test_config_round_trip_and_refusals():
    scaled = replace(TINY, rope_scaling=(8.0, 1.0, 4.0, 8192))
    assert ModelConfig.from_json(TINY.to_json()) == TINY
    assert ModelConfig.from_json(scaled.to_json()) == scaled
    for change, message in (
        ({"vision": "cnn"}, "ModelConfig.vision: must be 'patch' or 'vit'"),
        ({"vision": "vit"}, "a tower needs vit_layers"),
        ({"action": "words"}, "ModelConfig.action: must be 'codes' or 'flow'"),
        ({"frames": 1}, "ModelConfig.frames: must be >= 2"),
        ({"others": (("front", 32, 48),)}, "ModelConfig.others: two cameras have the same name"),
        ({"others": (("rear", 30, 48),)}, "ModelConfig.others.rear: must be a multiple of .* got 30x48"),
        ({"others": (("rear", 32),)}, "ModelConfig.others: must be name, height and width"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY, **change).validate()
    with pytest.raises(ValueError, match="unknown key colour"):
        ModelConfig.from_json('{"colour": 1}')
    with pytest.raises(ValueError, match="known sizes are"):
        preset("5M")
    with pytest.raises(ValueError, match="multiple of the 16 px patches"):
        preset("0.3M", image=(60, 160))


def test_changes_of_a_tensor_are_those_of_the_car():
    history = np.random.default_rng(0).normal(3.0, 4.0, (20, 4, 3)).astype(np.float32)
    history[..., 2] = np.random.default_rng(1).random((20, 4)) < 0.5
    assert np.allclose(ego_changes(torch.from_numpy(history)).numpy(), car_inputs.ego_changes(history), atol=1e-5)


def test_the_driven_action_is_the_mean_of_codes_that_support_the_selected_one():
    book = np.array([[0.0, 0.0], [0.2, 0.0], [2.0, 0.0], [0.0, 0.1]], np.float32)
    logits = torch.log(torch.tensor([[0.3, 0.3, 0.39, 0.01]]))
    code, control, speed = CodebookVote.of(book).select(logits, torch.tensor([10.0]))
    assert code.item() in (0, 1), "two that nearly agree outvote the likeliest"
    assert control[0, 0].item() == pytest.approx(0.1, abs=0.02)
    assert speed.item() == pytest.approx(10.05, abs=0.01)
