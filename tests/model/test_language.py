"""The decoder as a language model: cache, padding, sampling."""

import torch

from drivefoundry.model.blocks.decoder import Cache
from tinybackbone import tiny_backbone

MODEL = tiny_backbone().language()
PROMPTS = [[5, 9, 33], [80], [12, 7, 7, 250, 301]]


def test_generation_with_a_cache_is_that_without():
    said = MODEL.generate([PROMPTS[0]], 12)[0]
    ids = list(PROMPTS[0])
    for token in said:
        assert int(MODEL(torch.tensor([ids]))[0, -1].argmax()) == token
        ids.append(token)


def test_a_batch_of_prompts_equals_single_prompts():
    together = MODEL.generate(PROMPTS, 12)
    assert together == [MODEL.generate([p], 12)[0] for p in PROMPTS]


def test_a_text_stops_behind_its_end():
    said = MODEL.generate(PROMPTS, 12)
    end = said[1][4]
    got = MODEL.generate(PROMPTS, 12, end=end)
    for short, long in zip(got, said, strict=True):
        assert short == (long[: long.index(end) + 1] if end in long else long)


def test_samples_follow_the_model_and_the_seed():
    a, b = (MODEL.generate(PROMPTS, 6, temperature=1.0, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert a == b
    first = MODEL.generate([PROMPTS[0]] * 4000, 1, temperature=2.0, generator=torch.Generator().manual_seed(2))
    wanted = torch.softmax(MODEL(torch.tensor([PROMPTS[0]]))[0, -1] / 2.0, -1)
    seen = torch.bincount(torch.tensor(first).flatten(), minlength=len(wanted)) / 4000
    assert (seen - wanted).abs().max() < 0.03


def test_a_prompt_in_pieces_is_the_prompt():
    ids = torch.tensor([PROMPTS[2]])
    cache = Cache.empty(MODEL.config, 1, 5, MODEL.embed)
    with torch.no_grad():
        parts = torch.cat([MODEL(ids[:, :2], cache), MODEL(ids[:, 2:], cache)], 1)
        assert torch.allclose(parts, MODEL(ids), atol=1e-5)
