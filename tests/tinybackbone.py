"""A language model small enough for a test: random weights, and a byte-level BPE with a few words."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from drivefoundry.model.backbones.load import Backbone
from drivefoundry.model.backbones.vocabulary import CUTS
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.language import Language
from drivefoundry.model.text import OWN

WORDS = 304
"""Rows of the embedding: four more than the tokenizer has ids."""
SHAPE = ModelConfig(
    dim=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=64, norm_eps=1e-5, text_vocab=OWN + WORDS, text_shift=OWN,
    text_end=0, image=(32, 48), stem=16, max_text=12, codes=32, tied=False, rope_scaling=(8.0, 1.0, 4.0, 8192),
)  # fmt: skip
SAYINGS = ["the car ahead brakes, so slow down", "red light at 30 m: stop", "It's clear, l'été"]


def tokenizer(cut: str) -> bytes:
    """tokenizer.json of a BPE of 300 ids that splits text into words like GGUF's `cut`."""
    out = Tokenizer(models.BPE())
    out.pre_tokenizer, out.decoder = CUTS[cut], decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    out.train_from_iterator(SAYINGS * 4, trainer)
    return out.to_str().encode()


def tiny_backbone(config: ModelConfig = SHAPE, cut: str = "llama-bpe") -> Backbone:
    """The same weights each time, large enough for logits to differ clearly."""
    dice = torch.Generator().manual_seed(0)
    shapes = {name: tuple(p.shape) for name, p in Language(config).state_dict().items()}
    weights = {
        name: 1 + torch.randn(shape, generator=dice) / 10 if "norm" in name else torch.randn(shape, generator=dice) / 5
        for name, shape in shapes.items()
    }
    return Backbone(config, weights, tokenizer(cut), context=512)
