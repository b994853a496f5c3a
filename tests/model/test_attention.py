"""Packed batches: same losses and gradients as padded ones, isolated samples, one graph for all of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_vla import TINY, model, situation

from drivefoundry.model.blocks import attention
from drivefoundry.model.blocks.attention import GROUP_TOKENS, grouped, packed, should_pack
from drivefoundry.model.blocks.wrapping import checkpoint_activations
from drivefoundry.model.text import EOS, PAD
from drivefoundry.model.vla import VLA

LONG = replace(TINY, max_text=70)
SHAPES = {
    "llama": LONG,
    "qwen": replace(LONG, qkv_bias=True, tied=False, bidirectional=False, rope_scaling=(8.0, 1.0, 4.0, 32)),
    "flow": replace(LONG, action="flow", flow=32),
}


def lines(lengths: list[int], seed: int = 0) -> torch.Tensor:
    """(B, 70) ids: reasoning of the given numbers of tokens, including its end."""
    text = torch.randint(3, 500, (len(lengths), 70), generator=torch.Generator().manual_seed(seed))
    for row, n in zip(text, lengths, strict=True):
        row[n:] = PAD
        row[max(n - 1, 0) : n] = EOS
    return text


def both(m: VLA, lengths: list[int], monkeypatch: pytest.MonkeyPatch, seed: int = 0):
    """Loss, states or logits of the plans, logits of the texts' tokens and gradients: padded, then packed."""
    inputs, text = situation(len(lengths), m.config, seed), lines(lengths, seed)
    codes = torch.randint(0, m.config.codes, (len(lengths), 8), generator=torch.Generator().manual_seed(seed))
    light = torch.tensor([[1.1, 0.2]]).expand(len(lengths), 2) * torch.arange(1, len(lengths) + 1)[:, None]
    for bound in (1.0, -1.0):
        monkeypatch.setattr(attention, "PADDING", bound)
        m.zero_grad()
        logits = m(*inputs, text, codes, light)
        assert logits.text is not None
        said = logits.text if bound < 0 else logits.text[text != PAD]
        assert logits.text.ndim == (2 if bound < 0 else 3)
        loss = F.cross_entropy(said, text[text != PAD], reduction="sum") / 8 + logits.action.square().sum() / 64
        loss.backward()
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in m.named_parameters()}
        yield loss.detach(), logits.action.detach(), said.detach(), grads


def alike(padded, packed) -> None:
    for a, b in zip(padded[:3], packed[:3], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    for name, grad in padded[3].items():
        assert (grad - packed[3][name]).abs().max() <= 1e-5 * (1 + grad.abs().max()), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_is_padded_to_rounding(shape, seed, monkeypatch):
    lengths = torch.randint(0, 71, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
    m = model(SHAPES[shape], seed)
    alike(*both(m, [*lengths, 0, 70, 3], monkeypatch, seed))
    checkpoint_activations(m)
    alike(*both(m, [*lengths, 0, 70, 3], monkeypatch, seed))


@pytest.mark.parametrize("lengths", [[0, 0], [1], [70, 70]])
def test_without_text_with_one_token_and_with_no_padding(lengths, monkeypatch):
    alike(*both(model(LONG), lengths, monkeypatch))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_sample_sees_another(shape):
    m, inputs, lengths = model(SHAPES[shape]), situation(6, LONG), [3, 70, 0, 12, 12, 5]
    text, codes = lines(lengths), torch.zeros(6, 8, dtype=torch.long)
    assert should_pack(text != PAD, LONG.prefix + m.slots)
    whole = m(*inputs, text, codes)
    owner = torch.arange(6)[:, None].expand_as(text)[text != PAD]
    for changed in (1, 3, 5):
        other = text.clone()
        other[changed, 1] = 7 + text[changed, 1]
        frames = inputs[0]["front"].clone()
        frames[changed] = 255 - frames[changed]
        got = m({"front": frames}, *inputs[1:], other, codes)
        assert whole.text is not None
        assert got.text is not None
        rest = torch.arange(6) != changed
        assert torch.equal(got.action[rest], whole.action[rest])
        assert torch.equal(got.text[owner != changed], whole.text[owner != changed])
        assert not torch.equal(got.action[changed], whole.action[changed])
        assert not torch.equal(got.text[owner == changed], whole.text[owner == changed])


def test_tails_are_grouped_by_length_and_hardly_padded():
    assert grouped([20, 20, 20, 8, 8]) == ((3, 20), (2, 8))
    assert grouped([20, 19, 18, 17, 16]) == ((4, 20), (1, 16))
    for seed in range(20):
        lengths = sorted(torch.randint(8, 300, (64,), generator=torch.Generator().manual_seed(seed)).tolist())[::-1]
        groups = grouped(lengths)
        assert sum(n for n, _ in groups) == 64
        placed = [t for n, t in groups for _ in range(n)]
        assert all(a >= b for a, b in zip(placed, lengths, strict=True))
        assert sum(placed) - sum(lengths) <= GROUP_TOKENS * len(groups)


def test_every_token_lies_in_one_row():
    real = torch.cat([lines([5, 0, 70, 13]) != PAD, torch.ones(4, 8, dtype=torch.bool)], 1)
    packing, order, (sample, place) = packed(real, torch.zeros(1, 1), 3, True)
    assert order.tolist() == [2, 3, 0, 1]
    assert packing.groups == ((1, 78), (2, 21), (1, 8))
    assert len(sample) == 78 + 42 + 8
    rows = set(zip(sample.tolist(), place.tolist(), strict=True))
    assert len(rows) == len(sample)
    assert rows >= {(int(i), int(j)) for i, j in real.nonzero()}


def test_short_texts_are_padded_and_long_ones_packed():
    assert not should_pack(torch.arange(15) < torch.tensor([[15], [6], [10], [11]]), 51)
    assert should_pack(torch.arange(300) < torch.tensor([[300], [60], [40], [20]]), 51)


def by_documents(q, k, v, q_ends, k_ends, most_q, most_k, scale, window_size):
    """Reference for `torch.nn.attention.varlen.varlen_attn`, which has no CPU kernel."""
    out = []
    for a, b, c, d in zip(q_ends[:-1], q_ends[1:], k_ends[:-1], k_ends[1:], strict=True):
        assert b - a <= most_q
        assert d - c <= most_k
        scores = torch.einsum("thd,shd->hts", q[a:b], k[c:d]) * scale
        late = torch.ones(b - a, d - c, dtype=torch.bool).triu(int((d - c) - (b - a)) + 1)
        if window_size == (-1, 0):
            scores = scores.masked_fill(late, float("-inf"))
        out.append(torch.einsum("hts,shd->thd", scores.softmax(-1), v[c:d]))
    return torch.cat(out)


@pytest.mark.parametrize("both_ways", [True, False])
def test_flash_attention_is_asked_for_the_same(both_ways, monkeypatch):
    monkeypatch.setattr(attention.varlen, "varlen_attn", by_documents)
    real = torch.cat([lines([5, 0, 70, 13, 13]) != PAD, torch.ones(5, 8, dtype=torch.bool)], 1)
    mask = model(replace(LONG, bidirectional=both_ways))._mask(70, 1)[0]
    packing, _, (sample, _) = packed(real, mask, LONG.prefix, both_ways)
    rows = 5 * LONG.prefix + len(sample)
    q, k, v = (torch.randn(1, rows, heads, 16, generator=torch.Generator().manual_seed(0)) for heads in (4, 2, 2))
    for part in (q, q[:, 5 * LONG.prefix :]):
        wanted, got = attention.attend_packed(part, k, v, packing), attention.attend_flash(part, k, v, packing)
        assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch.compile asks of its inputs
def test_one_graph_for_all_packed_batches(monkeypatch):
    m = model(replace(LONG, layers=3))
    torch._dynamo.reset()
    m.decoder._compiled = [torch.compile(b.forward, dynamic=False, backend="aot_eager") for b in m.decoder.blocks]
    batches = [[70, 3, 9], [20, 40, 0, 1], [60, 1], [33, 4, 4, 4, 70], [2, 11, 70]]
    for i, lengths in enumerate(batches):
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            alike(*both(m, lengths, monkeypatch, i))
