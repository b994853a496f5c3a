"""The process group of a training: this process's rank, and how ranks started by torchrun find each other."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore


def rank_and_world(alone: bool = False) -> tuple[int, int]:
    """This process's rank and the number of ranks; joins the process group if torchrun started several, or creates one
    with a single rank if `alone`."""
    if alone and "WORLD_SIZE" not in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", None, None, 1, 0, dist.HashStore())  # type: ignore[attr-defined]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        _join("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _join(backend: str) -> None:
    """Join the process group of torchrun's ranks. On one machine torchrun's store outlives the ranks, so that those of
    the next restart could find old addresses in it; so each restart uses its own keys."""
    environment = os.environ
    if (
        environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        or environment["LOCAL_WORLD_SIZE"] != environment["WORLD_SIZE"]
    ):
        dist.init_process_group(backend)
        return
    store = dist.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)  # pyright: ignore[reportPrivateImportUsage]
    life = PrefixStore(f"life-{environment['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(
        backend, store=life, rank=int(environment["RANK"]), world_size=int(environment["WORLD_SIZE"])
    )
