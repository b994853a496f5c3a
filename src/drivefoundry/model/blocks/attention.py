"""Attention between queries, keys and values, of samples of equal length or of a packed batch.

A packed batch has almost no padding, so token-wise layers run on real tokens only (unpadded training as in ModernBERT,
Warner 2024; samples do not see each other, as with FlashAttention's variable lengths, Dao 2023). It holds the samples'
prefixes, which have equal length, then their tails, longest first.
Axes: B samples, P prefix tokens, N rows (all tokens of a packed batch), T tokens, S keys, H heads, G key-value heads, K
head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

FAR = -30_000.0
"""Added to the score of a masked key (finite, so that a row without any visible key stays finite)."""
PADDING = 0.125
"""Share of padding from which a batch is packed. On a CPU core at size 4M: at 7 %, packing slows compiled blocks by 2 %
and speeds others up by 2 %; at 14 % it speeds others up by 12 %."""
GROUP_TOKENS = 8
"""Cost of one more group of tails, in tokens: up to this much padding is accepted to merge two groups."""


@dataclass(frozen=True)
class Packing:
    """Layout of a packed batch: B prefixes, then groups of tails of equal length, longest first.

    Prefixes see themselves as `mask` says; tails see their own prefix and their own past, so padding at the end of a
    tail is not seen.
    """

    prefix: int
    groups: tuple[tuple[int, int], ...]
    """(samples, tokens of each one's tail)."""
    mask: Tensor
    """(P + T, P + T) of one sample, with T at least the longest tail: a tail sees the prefix and its own past."""

    both_ways: bool
    """Whether all prefix tokens see each other, as `mask` then says, too."""

    @property
    def samples(self) -> int:
        return sum(n for n, _ in self.groups)

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For FlashAttention: ends of prefixes, tails and whole samples, (B + 1,) int32 each, starting at 0, and the
        row of each token, sample by sample, (N,)."""
        device, b = self.mask.device, self.samples
        tails = torch.tensor([0, *(t for n, t in self.groups for _ in range(n))], device=device).cumsum(0)
        prefixes = self.prefix * torch.arange(b + 1, device=device)
        rows = torch.arange(b * self.prefix, device=device).split(self.prefix)
        behind = torch.arange(b * self.prefix, b * self.prefix + int(tails[-1]), device=device)
        cut = behind.tensor_split(tails[1:-1].cpu())
        row = torch.cat([x for pair in zip(rows, cut, strict=True) for x in pair])
        return prefixes.int(), tails.int(), (prefixes + tails).int(), row


def grouped(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """Group tail lengths (descending) into (samples, tokens), of equal lengths up to GROUP_TOKENS of padding."""
    groups: list[tuple[int, int]] = []
    padding = 0
    for length in lengths:
        padding += groups[-1][1] - length if groups else 0
        if groups and padding <= GROUP_TOKENS:
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
        else:
            groups.append((1, length))
            padding = 0
    return tuple(groups)


def should_pack(real: Tensor, rest: int) -> bool:
    """Whether packing saves time. real: (B, L) which text positions are not padding; rest: number of further tokens per
    sample."""
    b, length = real.shape
    return b * length - int(real.sum()) > PADDING * b * (rest + length)


def packed(real: Tensor, mask: Tensor, prefix: int, both_ways: bool) -> tuple[Packing, Tensor, tuple[Tensor, Tensor]]:
    """Pack a batch. real (B, T): which tokens after the prefix are not padding; mask (P + T, P + T): that of a sample
    without padding.

    Returns the layout, the order of the samples (B,), and the tokens in the rows of all tails as (sample, position),
    (R,) each."""
    count = real.sum(1)
    order = count.argsort(dim=0, stable=True, descending=True)
    groups = grouped(count[order].tolist())
    size = torch.tensor([t for n, t in groups for _ in range(n)], device=real.device)
    place = (~real).int().argsort(dim=1, stable=True)[order]  # padding goes to the end
    taken = torch.arange(real.shape[1], device=real.device) < size[:, None]
    return Packing(prefix, groups, mask, both_ways), order, (order[:, None].expand_as(place)[taken], place[taken])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q (B, T, H, K) over sqrt(K); k, v (B, S, G, K); mask (B or 1, T or more, S), whose last T rows are added to the
    scores. Returns (B, T, H*K).

    On CPU this is two plain batched matmuls: six times faster at these lengths than torch's fused kernel.
    """
    b, t, h, d = q.shape
    s, n = k.shape[1:3]
    mask = mask[:, -t:]
    if q.device.type != "cpu":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None].to(q.dtype), scale=1.0, enable_gqa=True)
        return y.transpose(1, 2).reshape(b, t, h * d)
    r = h // n
    q = q.view(b, t, n, r, d).permute(0, 2, 3, 1, 4).reshape(b * n, r * t, d)
    k = k.permute(0, 2, 3, 1).reshape(b * n, d, s)
    v = v.permute(0, 2, 1, 3).reshape(b * n, s, d)
    scores = torch.bmm(q, k).view(b, n, r, t, s) + mask[:, None, None].to(q.dtype)
    y = torch.bmm(torch.softmax(scores, -1).view(b * n, r * t, s), v)
    return y.view(b, n, r, t, d).permute(0, 3, 1, 2, 4).reshape(b, t, h * d)


@torch.compiler.disable(recursive=True)
def attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """`attend` of a packed batch: k, v (1, N, G, K); q (1, N, H, K), or the tails' alone. Returns (1, N, H*K), or the
    tails' alone.

    Not compiled, because the number of groups differs from batch to batch.
    """
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        return attend_flash(q, k, v, packing)
    p, b = packing.prefix, packing.samples
    (kp, kt), (vp, vt) = ((x[0, : b * p].unflatten(0, (b, p)), x[0, b * p :]) for x in (k, v))
    out = []
    if q.shape[1] == k.shape[1]:
        out.append(attend(q[0, : b * p].unflatten(0, (b, p)), kp, vp, packing.mask[None, :p, :p]))
    rows, samples = [n * t for n, t in packing.groups], [n for n, _ in packing.groups]
    tails = zip(q[0, -len(kt) :].split(rows), kt.split(rows), vt.split(rows), strict=True)
    prefixes = zip(kp.split(samples), vp.split(samples), strict=True)
    for shape, (q_tail, *tail), prefix in zip(packing.groups, tails, prefixes, strict=True):
        keys, values = (torch.cat([x, y.unflatten(0, shape)], 1) for x, y in zip(prefix, tail, strict=True))
        seen = packing.mask[None, p : p + shape[1], : p + shape[1]]
        out.append(attend(q_tail.unflatten(0, shape), keys, values, seen))
    y = torch.cat([x.flatten(0, 1) for x in out])[None]
    torch._dynamo.maybe_mark_dynamic(y, 1)  # compiled code continues here
    return y


def attend_flash(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """`attend_packed` with variable-length FlashAttention, which needs a GPU and 16-bit floats."""
    prefixes, tails, wholes, row = packing.ends
    p, b, longest = packing.prefix, packing.samples, packing.groups[0][1]
    k, v = (x[0].repeat_interleave(q.shape[2] // x.shape[2], 1) for x in (k, v))
    out = []
    if q.shape[1] == len(k):
        first, window = slice(0, b * p), (-1, -1 if packing.both_ways else 0)
        ends = prefixes, prefixes, p, p
        out.append(varlen.varlen_attn(q[0, first], k[first], v[first], *ends, scale=1.0, window_size=window))
    ends = tails, wholes, longest, p + longest
    last = q[0, b * p - len(k) :]
    out.append(varlen.varlen_attn(last, k[row], v[row], *ends, scale=1.0, window_size=(-1, 0)))  # causal from the end
    y = torch.cat(out).flatten(1)[None]
    torch._dynamo.maybe_mark_dynamic(y, 1)
    return y
