"""The decoder as a plain language model: logits and generated text from token ids.

Axes: B batch, T tokens, S keys, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.blocks.attention import FAR
from drivefoundry.model.blocks.decoder import Cache, Decoder, rope_table
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.vla import sample


class Language(nn.Module):
    """Embeddings, decoder and head over the tokenizer's own ids, without our PAD, EOS and UNK; weights are loaded
    later."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        words = config.text_vocab - config.text_shift
        self.embed = nn.Parameter(torch.zeros(words, config.dim))
        self.own_head = None if config.tied else nn.Parameter(torch.zeros(words, config.dim))
        self.decoder = Decoder(config)

    def forward(self, ids: Tensor, cache: Cache | None = None, hidden: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of ids (B, T), which continue the cache if there is one.

        hidden (B, S): positions, counted from the first, that are masked out."""
        t, at = ids.shape[1], 0 if cache is None else cache.filled
        rope = rope_table(self.config, at + t)[:, at:].to(ids.device)
        late = torch.arange(at + t, device=ids.device) > torch.arange(at, at + t, device=ids.device)[:, None]
        unseen = late[None] if hidden is None else late | hidden[:, None]
        mask = torch.zeros(unseen.shape, device=ids.device).masked_fill_(unseen, FAR)
        y = self.decoder(F.embedding(ids, self.embed), rope, mask, keep=t, cache=cache)
        return y @ (self.embed if self.own_head is None else self.own_head).T

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        end: int | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Continue prompts of any lengths by up to `limit` ids each; greedy at temperature 0. A text stops after `end`,
        which is included.

        Shorter prompts are padded in front, so that all end at the same position: only distances matter to RoPE.
        """
        device, longest = self.embed.device, max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + [*p] for p in prompts], device=device)
        pads = torch.tensor([longest - len(p) for p in prompts], device=device)
        hidden = torch.arange(longest + limit, device=device) < pads[:, None]
        cache, said = Cache.empty(self.config, len(ids), longest + limit, self.embed), []
        live = torch.ones(len(ids), dtype=torch.bool, device=device)
        for _ in range(limit):
            seen = cache.filled + ids.shape[1]
            token = sample(self(ids, cache, hidden[:, :seen])[:, -1].float(), temperature, generator)
            said.append(torch.where(live, token, -1))
            live = live & (token != (-1 if end is None else end))
            if not live.any():
                break
            ids = token[:, None]
        return [[k for k in row if k >= 0] for row in torch.stack(said, 1).tolist()]
