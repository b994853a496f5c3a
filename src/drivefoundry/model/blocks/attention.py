"""Queries, keys and values in, what each token sees of the others out: of samples of one length, or packed ones.

A packed batch has next to no padding: what treats tokens one by one runs on real ones alone (unpadded training as in
ModernBERT, Warner 2024; samples do not see each other, as with FlashAttention's variable lengths, Dao 2023). It holds
the samples' prefixes, which are of one length, then their tails, longest first.
Axes: B samples, P prefix tokens, N rows: all tokens of a packed batch, T tokens, S keys, H heads, G key-value heads, K
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
"""Added to the score of a key that may not be seen (finite, so that a row without any key stays finite)."""
PADDING = 0.125
"""Share of padding from which a batch is packed. On a CPU core, 4M: at 7 % compiled blocks lose 2 % by it and others
win 2 %; at 14 % others win 12 %."""
GROUP_TOKENS = 8
"""A group of tails costs as much time as so many tokens: that many may be padding to make two groups one."""


@dataclass(frozen=True)
class Packing:
    """How samples lie in a packed batch: B prefixes, then groups of tails of one length each, longest first.

    Prefixes see themselves as `mask` says, tails the own prefix and the own past, so that what pads a tail, at its end,
    is not seen.
    """

    prefix: int
    groups: tuple[tuple[int, int], ...]
    """(samples, tokens of each one's tail)."""
    mask: Tensor
    """(P + T, P + T), T at least the longest tail, of one sample: a tail sees the prefix and its own past."""

    both_ways: bool
    """Whether prefixes see themselves whole, as `mask` then says, too."""

    @property
    def samples(self) -> int:
        return sum(n for n, _ in self.groups)

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For FlashAttention: where prefixes, tails and whole samples end, (B + 1,) int32 each from 0 on, and the row
        of each token, sample by sample, (N,)."""
        device, b = self.mask.device, self.samples
        tails = torch.tensor([0, *(t for n, t in self.groups for _ in range(n))], device=device).cumsum(0)
        prefixes = self.prefix * torch.arange(b + 1, device=device)
        rows = torch.arange(b * self.prefix, device=device).split(self.prefix)
        behind = torch.arange(b * self.prefix, b * self.prefix + int(tails[-1]), device=device)
        cut = behind.tensor_split(tails[1:-1].cpu())
        row = torch.cat([x for pair in zip(rows, cut, strict=True) for x in pair])
        return prefixes.int(), tails.int(), (prefixes + tails).int(), row


def grouped(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """Tail lengths, falling, in; groups (samples, tokens) out, of equal lengths as far as GROUP_TOKENS allows."""
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


def pays(real: Tensor, rest: int) -> bool:
    """Which places of a batch's texts (B, L) are real, and how many more tokens each sample has, in; whether so many
    are padding that packing takes less time."""
    b, length = real.shape
    return b * length - int(real.sum()) > PADDING * b * (rest + length)


def packed(real: Tensor, mask: Tensor, prefix: int, both_ways: bool) -> tuple[Packing, Tensor, tuple[Tensor, Tensor]]:
    """Which tokens behind the prefix are real, (B, T), and who sees whom in a sample without padding, (P + T, P + T).

    Returns how they lie, the order of the samples (B,), and which tokens the rows of all tails are: sample and place,
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

    On CPU two plain batched matmuls: at these lengths six times faster than torch's fused kernel there.
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

    Not compiled: how many groups there are differs from batch to batch.
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
    torch._dynamo.maybe_mark_dynamic(y, 1)  # what is compiled goes on from here
    return y


def attend_flash(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """`attend_packed` by FlashAttention with variable lengths, which knows 16 bits on a GPU alone."""
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
