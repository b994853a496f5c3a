"""VLA: logits of reasoning text and action codes from frames, ego history and route.

One sequence: [task][image patches][ego][route] [think, text ...]? [act, 7 action codes], with text only if there is
reasoning. With a flow head (`ModelConfig.action`) it ends at the act mark, whose state is the head's only input.
Axes: B batch, T tokens, D model width, L text tokens, G action groups per sample, V text vocabulary, C codes.
Action tokens have their own rotary positions, after the longest possible text, so that they are at the same distance
from the image with and without reasoning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.blocks.attention import FAR, packed, should_pack
from drivefoundry.model.blocks.decoder import Cache, Decoder, rope_table
from drivefoundry.model.blocks.flow import FlowHead, nearest
from drivefoundry.model.blocks.vision import Frames, Vision
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.text import EOS, PAD
from drivefoundry_car.vehicle.codec import STEP_S, VOTE_SPEEDS, VOTE_STEP, votes
from drivefoundry_car.vehicle.inputs import LATERAL_GAIN, RATE_CHANGE, RATE_GAIN, SPEED_CHANGE, SPEED_GAIN, SPEED_MIDDLE


class Logits(NamedTuple):
    """action (B, 8, C), or (B, G, 8, C) if the actions had groups; for a flow head the state (B, D) or (B, G, D) at the
    act mark. text (B, L, V), position i predicting text id i; for a packed batch (n, V) of the n ids that are not PAD,
    row by row; or None."""

    action: Tensor
    text: Tensor | None


class CodebookVote(NamedTuple):
    """Tables for choosing greedy action codes: see `drivefoundry_car.vehicle.codec.votes`."""

    table: Tensor
    """(V, C, C)."""
    codebook: Tensor
    """(C, 2)."""

    @staticmethod
    def of(codebook: np.ndarray, device: torch.device | None = None) -> CodebookVote:
        """Build the tables for a codebook (C, 2)."""
        table, book = torch.from_numpy(votes(codebook)), torch.from_numpy(codebook.astype(np.float32))
        return CodebookVote(table.to(device), book.to(device))

    def select(self, logits: Tensor, speed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select codes (B,) from logits (B, C) at speeds (B,) m/s; returns also their controls (B, 2) and the speed
        0.5 s later (B,)."""
        table = self.table[(speed / VOTE_STEP + 0.5).clamp(max=VOTE_SPEEDS - 1).long()]
        p = torch.softmax(logits, -1)
        code = (table @ p[..., None])[..., 0].argmax(-1)
        share = table[torch.arange(len(code), device=code.device), code] * p
        control = share @ self.codebook / share.sum(-1, keepdim=True)
        return code, control, (speed + STEP_S * control[:, 0]).clamp(min=0.0)


def ego_changes(ego: Tensor) -> Tensor:
    """`drivefoundry_car.vehicle.inputs.ego_changes` for tensors: from (B, 4, 3) to (B, 12)."""
    speed, rate, known = ego[:, -1, 0], ego[:, -1, 1], ego[:, :-1, 2]
    now = torch.stack([SPEED_GAIN * (speed - SPEED_MIDDLE), RATE_GAIN * rate, LATERAL_GAIN * speed * rate], 1)
    change = (ego[:, :-1, :2] - ego[:, -1:, :2]) * known[..., None]
    return torch.cat([now, SPEED_CHANGE * change[..., 0], RATE_CHANGE * change[..., 1], known], 1)


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Sample ids (...) from logits (..., V); the most likely at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    p = torch.softmax(logits / temperature, -1)
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])


class VLA(nn.Module):
    """A vision-language-action model of the given shape, freshly initialised."""

    rope: Tensor
    ego_scale: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        d = config.dim
        self.stem = Vision(config)
        self.ego_in = nn.Linear(config.history * config.ego_features, d)
        self.ego_out = nn.Linear(d, d)
        self.route_in = nn.Linear(config.route_features, d)
        self.route_out = nn.Linear(d, d)
        self.embed = nn.Parameter(torch.empty(config.vocab, d))
        self.decoder = Decoder(config)
        self.own_head = None if config.tied else nn.Parameter(torch.empty(config.vocab, d))
        self.flow = FlowHead(config) if config.action == "flow" else None
        positions = config.prefix + config.max_text + config.plan
        self.register_buffer("rope", torch.empty(2, positions, config.head_dim // 2), persistent=False)
        self.register_buffer("ego_scale", torch.empty(config.ego_features), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise weights and tables, also after `to_empty` from the meta device. Normal(0, 1/sqrt(fan in)); layers
        that add to the residual stream start smaller with depth (GPT-2)."""
        self.rope.copy_(rope_table(self.config, self.rope.shape[1]))
        self.ego_scale.copy_(torch.tensor([0.1, 2.0, 1.0]))
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
            else:
                nn.init.ones_(p)
            if name.endswith(("o.weight", "down.weight")):
                p.data.mul_((2 * self.config.layers) ** -0.5)
        nn.init.normal_(self.stem.position, std=0.5)
        nn.init.normal_(self.embed, std=0.5 * self.config.dim**-0.5)  # also the head: logits start small
        if self.own_head is not None:
            nn.init.normal_(self.own_head, std=0.5 * self.config.dim**-0.5)

    @property
    def head(self) -> Tensor:
        """(vocab, D) matrix from states to logits of the whole vocabulary."""
        return self.embed if self.own_head is None else self.own_head

    @property
    def slots(self) -> int:
        """Tokens per plan: the act mark and, with codes, all codes but the last."""
        return self.config.plan if self.flow is None else 1

    def prefix(self, frames: Frames, ego: Tensor, route: Tensor, light: Tensor | None = None) -> Tensor:
        """Prefix embeddings (B, P, D) of each camera's frames, ego (B, history, state) and route (B, features);
        light (B, 2) or None."""
        dtype = self.embed.dtype
        state = ego_changes(ego) if self.config.ego_changes else (ego * self.ego_scale).flatten(1)
        e = F.silu(self.ego_in(state.to(dtype)))
        r = F.silu(self.route_in(route.to(dtype)))
        task = self.embed[self.config.task_id].expand(len(ego), 1, -1)
        return torch.cat([task, self.stem(frames, light), self.ego_out(e)[:, None], self.route_out(r)[:, None]], 1)

    def _mask(self, text: int, groups: int) -> Tensor:
        """(1, T, T) attention mask: the prefix sees itself, text its past, each action group the prefix, the text and
        its own past."""
        c = self.config
        kind = torch.arange(c.prefix + text + groups * self.slots, device=self.rope.device)
        after = kind - c.prefix
        see = kind[:, None] >= kind[None, :]
        if c.bidirectional:
            see |= (after[:, None] < 0) & (after[None, :] < 0)
        group = torch.where(after >= text, (after - text) // self.slots, -1)
        see &= (group[None, :] < 0) | (group[:, None] == group[None, :])
        return torch.zeros(see.shape, device=see.device).masked_fill_(~see, FAR)[None]

    def _rope(self, text: int, groups: int = 0) -> Tensor:
        c = self.config
        head, tail = self.rope[:, : c.prefix + text], self.rope[:, c.prefix + c.max_text :][:, : self.slots]
        return torch.cat([head, tail.repeat(1, groups, 1)], 1) if groups else head

    def _text_in(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Input ids (B, L), the text ids shifted after the think mark, and which of them are not padding (B, L)."""
        start = torch.full_like(text[:, :1], self.config.think_id)
        ids = torch.cat([start, text[:, :-1]], 1)
        real = (ids != PAD) & (ids != EOS)
        return ids, real & (text[:, :1] != PAD)

    def forward(
        self,
        frames: Frames,
        ego: Tensor,
        route: Tensor,
        text: Tensor | None,
        action: Tensor,
        light: Tensor | None = None,
    ) -> Logits:
        """Teacher forcing. text (B, L): ids ending with EOS and padded with PAD, or None; action (B, 8) or (B, G, 8):
        codes, which a flow head ignores, since its plans only enter `action_loss`.

        Groups share one prefix: G answers to the same situation in one pass. A row of `text` that is all PAD has none.
        A batch with much padding is packed, see `attention`; the result differs only by rounding.
        """
        c = self.config
        if text is not None and action.ndim == 2 and should_pack(text != PAD, c.prefix + self.slots):
            return self._packed(frames, ego, route, text, action, light)
        b = len(ego)
        length = 0 if text is None else text.shape[1]
        groups = action.shape[1] if self.flow is None and action.ndim == 3 else 1
        parts = [self.prefix(frames, ego, route, light)]
        mask = self._mask(length, groups)
        if text is not None:
            ids, real = self._text_in(text)
            parts.append(F.embedding(ids, self.embed))
            pad = torch.zeros(b, 1, mask.shape[-1], device=mask.device)
            pad[:, 0, c.prefix : c.prefix + length].masked_fill_(~real, FAR)
            mask = torch.maximum(mask + pad, torch.full_like(pad, FAR))
        ids = torch.full((b, groups, 1), c.act_id, device=self.embed.device)
        if self.flow is None:
            ids = torch.cat([ids, action.view(b, groups, c.plan)[..., :-1] + c.text_vocab], -1)
        parts.append(F.embedding(ids.flatten(1), self.embed))
        y = self.decoder(torch.cat(parts, 1), self._rope(length, groups), mask, keep=length + ids[0].numel())
        act = y[:, length] if self.flow is not None else self.action_logits(y[:, length:]).view(*action.shape, c.codes)
        return Logits(act, None if text is None else self.text_logits(y[:, :length]))

    def _packed(
        self, frames: Frames, ego: Tensor, route: Tensor, text: Tensor, action: Tensor, light: Tensor | None
    ) -> Logits:
        """`forward` without padding: text (B, L), action (B, 8)."""
        c, length = self.config, text.shape[1]
        act = torch.full((len(text), 1), c.act_id, device=text.device)
        if self.flow is None:
            act = torch.cat([act, action[:, :-1] + c.text_vocab], 1)
        ids = torch.cat([self._text_in(text)[0], act], 1)
        said = text != PAD
        real = torch.cat([said, torch.ones_like(act, dtype=torch.bool)], 1)
        packing, order, at = packed(real, self._mask(length, 1)[0], c.prefix, c.bidirectional)
        shown = {name: f[order] for name, f in frames.items()}
        prefix = self.prefix(shown, ego[order], route[order], None if light is None else light[order])
        x = torch.cat([prefix.flatten(0, 1), F.embedding(ids[at], self.embed)])
        table = self._rope(length, 1)
        rope = torch.cat([table[:, : c.prefix].repeat(1, len(ids), 1), table[:, c.prefix :][:, at[1]]], 1)
        y = self.decoder(x[None], rope, packing, keep=len(at[0]))[0]
        row = torch.zeros_like(ids).index_put(at, torch.arange(len(y), device=y.device))
        state = y[row[:, length:]]
        state = state[:, 0] if self.flow is not None else self.action_logits(state)
        return Logits(state, self.text_logits(y[row[:, :length][said]]))

    def action_logits(self, y: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, C): the rows of the vocabulary that are action codes."""
        return y @ self.head[self.config.text_vocab : self.config.text_vocab + self.config.codes].T

    def text_logits(self, y: Tensor) -> Tensor:
        """Map (..., D) to (..., V): the rows of the vocabulary that are text."""
        return y @ self.head[: self.config.text_vocab].T

    def action_loss(self, logits: Logits, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Loss (...) of the plans: cross entropy against target (..., 8, C), shares of the codes; for a flow head the
        error of the velocity towards target (B, 8, 2), controls."""
        if self.flow is not None:
            return self.flow.loss(logits.action, target, generator)
        return -(target.float() * F.log_softmax(logits.action.float(), -1)).sum(-1).mean(-1)

    @torch.no_grad()
    def start(self, frames: Frames, ego: Tensor, route: Tensor, room: int) -> Cache:
        """Read the prefix once. Returns its cache with room for `room` more tokens per sample."""
        c = self.config
        x = self.prefix(frames, ego, route)
        cache = Cache.empty(c, len(x), c.prefix + room, x)
        self.decoder(x, self._rope(0), self._mask(0, 0), keep=0, cache=cache)
        return cache

    @torch.no_grad()
    def generate_text(
        self,
        cache: Cache,
        limit: int | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Generate reasoning from a cache of `start` with room for max_text more; greedy at temperature 0. Returns ids
        (B, max_text): text, EOS, then PAD."""
        c = self.config
        limit = min(limit or c.max_text, c.max_text)
        batch = len(cache.keys[0])
        ids = torch.full((batch, c.max_text), PAD, device=self.embed.device)
        token = torch.full((batch,), c.think_id, device=self.embed.device)
        live = torch.ones(batch, dtype=torch.bool, device=self.embed.device)
        mask = torch.zeros(1, 1, 1, device=self.embed.device)
        for i in range(limit):
            at = c.prefix + i
            y = self.decoder(self.embed[token][:, None], self.rope[:, at : at + 1], mask, keep=1, cache=cache)
            token = sample(self.text_logits(y[:, 0]), temperature, generator)
            token = torch.where(live, token if i < limit - 1 else torch.full_like(token, EOS), PAD)
            ids[:, i] = token
            live &= token != EOS
            if not live.any():
                break
        return ids

    @torch.no_grad()
    def act(
        self,
        frames: Frames,
        ego: Tensor,
        route: Tensor,
        temperature: float = 0.0,
        n: int = 1,
        text: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n action sequences per sample, (B, n, 8) codes; greedy at temperature 0; after the reasoning `text` if given.
        For a flow head (B, n, 8, 2) controls, from noise scaled by the temperature.

        The prefix is read once; the n sequences of a sample are n query rows against the same keys.
        """
        if self.flow is not None:
            state = self._state(frames, ego, route, text).repeat_interleave(n, 0)
            noise = torch.randn(len(state), 2 * self.config.plan, generator=generator, device=state.device)
            return self.flow.plan(state, temperature * noise).unflatten(0, (-1, n))
        return self._answer(frames, ego, route, n, text, lambda logits: sample(logits, temperature, generator))

    @torch.no_grad()
    def plan(self, frames: Frames, ego: Tensor, route: Tensor, vote: CodebookVote) -> tuple[Tensor, Tensor]:
        """Driving output: selected codes (B, 8) and their controls (B, 8, 2), see
        `drivefoundry_car.vehicle.codec.votes`. For a flow head, the controls and the codes nearest to them."""
        if self.flow is not None:
            controls = self.flow.plan(self._state(frames, ego, route, None))
            return nearest(controls, vote.codebook), controls
        speed, driven = ego[:, -1, 0].float().clamp(min=0.0), []

        def choose(logits: Tensor) -> Tensor:
            nonlocal speed
            code, control, speed = vote.select(logits[:, 0], speed)
            driven.append(control)
            return code[:, None]

        codes = self._answer(frames, ego, route, 1, None, choose)[:, 0]
        return codes, torch.stack(driven, 1)

    def _read(self, frames: Frames, ego: Tensor, route: Tensor, text: Tensor | None, room: int) -> tuple[Cache, Tensor]:
        """Read prefix and reasoning once. Returns the cache with room for `room` more, and which of it is visible, (B
        or 1, 1, S)."""
        c = self.config
        length = 0 if text is None else text.shape[1]
        cache = self.start(frames, ego, route, length + room)
        seen = torch.zeros(1, 1, c.prefix + length, device=self.embed.device)
        if text is not None:
            ids, real = self._text_in(text)
            past = self._mask(length, 0)[:, c.prefix :]
            self.decoder(F.embedding(ids, self.embed), self._rope(length)[:, c.prefix :], past, keep=0, cache=cache)
            seen = torch.zeros(len(ids), 1, c.prefix + length, device=seen.device)
            seen[:, 0, c.prefix :].masked_fill_(~real, FAR)
        return cache, seen

    def _state(self, frames: Frames, ego: Tensor, route: Tensor, text: Tensor | None) -> Tensor:
        """State (B, D) at the act mark."""
        c = self.config
        cache, seen = self._read(frames, ego, route, text, 1)
        mark = self.embed[c.act_id].expand(len(ego), 1, -1)
        mask = torch.cat([seen, seen.new_zeros(len(seen), 1, 1)], -1)
        return self.decoder(mark, self._rope(0, 1)[:, c.prefix :], mask, keep=1, cache=cache)[:, 0]

    def _answer(
        self,
        frames: Frames,
        ego: Tensor,
        route: Tensor,
        n: int,
        text: Tensor | None,
        choose: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Generate codes (B, n, 8), each chosen from its logits (B, n, C)."""
        c = self.config
        cache, seen = self._read(frames, ego, route, text, n * c.plan)
        own = torch.full((n, n), FAR, device=seen.device).fill_diagonal_(0.0)
        token = torch.full((len(ego), n), c.act_id, device=self.embed.device)
        out = []
        for k in range(c.plan):
            rope = self.rope[:, c.prefix + c.max_text + k].unsqueeze(1).expand(-1, n, -1)
            mask = torch.cat([seen.expand(-1, n, -1), own.repeat(1, k + 1).expand(len(seen), -1, -1)], -1)
            logits = self.action_logits(self.decoder(self.embed[token], rope, mask, keep=n, cache=cache)).float()
            code = choose(logits)
            out.append(code)
            token = code + c.text_vocab
        return torch.stack(out, -1)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())
