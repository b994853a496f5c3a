"""Layouts: the 72B preset's plan adds up, and blocks split either way compute what whole ones do."""

import subprocess
import sys

import pytest
import torch

from drivefoundry.model.presets import parameters, preset
from drivefoundry.train.distributed.parallel import MeshLayout, layout, scaled_down
from drivefoundry.train.distributed.tensor_parallel import interleaved


def test_the_72b_plan_adds_up():
    lies = layout(preset("72B"), 64)
    assert (lies.shard, lies.tensor) == (8, 8)
    need = lies.bytes_per_device()
    exact = 16 * parameters(preset("72B")) / 64
    assert exact < need["state"] < 1.4 * exact  # what is not a block is cut over the shards alone
    text = lies.text()
    assert "73.33 B weights, 80 blocks" in text
    assert "kv.weight       (2048, 8192)     tensor: rows / 8" in text
    assert layout(preset("4M"), 2) == MeshLayout(preset("4M"), 2, 1)
    assert layout(preset("72B"), 6).tensor == 2
    with pytest.raises(ValueError, match="do not divide"):
        MeshLayout(preset("72B"), 1, 3).validate()


def test_parts_of_an_interleaved_matrix_are_fused_matrices():
    a, b = torch.arange(6), torch.arange(10, 16)
    first, second = interleaved(torch.cat([a, b]), 2).chunk(2)
    assert torch.equal(first, torch.cat([a[:3], b[:3]]))
    assert torch.equal(second, torch.cat([a[3:], b[3:]]))
    three = interleaved(torch.cat([a, b]), 3)
    assert torch.equal(interleaved(three, 2, before=3), interleaved(torch.cat([a, b]), 2))
    assert torch.equal(interleaved(three, 1, before=3), torch.cat([a, b]))
    small = scaled_down(preset("72B"))
    assert (small.dim, small.heads * small.head_dim, small.ffn) == (256, 256, 924)


def test_two_ranks_compute_what_one_does():
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "drivefoundry.train.distributed.parallel",
    ]
    done = subprocess.run([sys.executable, *torchrun, "72B"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "shard 2 x tensor 1: forward differs" in done.stdout
    assert "shard 1 x tensor 2: forward differs" in done.stdout
