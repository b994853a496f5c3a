"""Wrap a model's blocks for training: compile them, or checkpoint their activations to save memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivefoundry.model.blocks.decoder import Decoder


def compiled(net: nn.Module, sharded: bool = False) -> None:
    """Compile the blocks of the decoder; inductor's disk cache serves the run after a restart."""
    torch._dynamo.reset()
    torch._dynamo.config.error_on_nested_fx_trace = False  # while one thread compiles, others run uncompiled
    decoder = net.decoder
    assert isinstance(decoder, Decoder)
    if not sharded:
        decoder.compile_blocks()
        return
    for block in decoder.blocks:  # called as modules, for their parameters are gathered around each call
        block.forward = partial(_of_any_batch, torch.compile(block.forward, dynamic=False))


def _of_any_batch(forward: Callable[..., Tensor], x: Tensor, rope: Tensor, mask: Any, *rest: Any) -> Tensor:
    """One graph for any batch, as in Decoder.forward, whose marks are lost because FSDP's hooks replace its tensors."""
    if x.shape[0] > 1:  # otherwise it is packed, or a single sample
        for rows in (x, mask) if mask.shape[0] > 1 else (x,):
            torch._dynamo.mark_dynamic(rows, 0)
    return forward(x, rope, mask, *rest)


def checkpoint_activations(net: nn.Module) -> None:
    """Keep only the input of each block of every decoder (activation checkpointing, Chen 2016)."""
    keep = partial(partial, checkpoint, use_reentrant=False, preserve_rng_state=False)
    for decoder in [m for m in net.modules() if isinstance(m, Decoder)]:
        for block in decoder.blocks:
            block.forward = keep(block.forward)
        decoder._compiled = [keep(forward) for forward in decoder._compiled]


def restore_forward(net: nn.Module) -> None:
    """Give every block its own forward pass back."""
    for decoder in [m for m in net.modules() if isinstance(m, Decoder)]:
        for block in decoder.blocks:
            vars(block).pop("forward", None)
        if decoder._compiled and isinstance(decoder._compiled[0], partial):
            decoder._compiled = [kept.args[0] for kept in decoder._compiled]
