"""Tensor parallelism: training equals that of one rank, and a state resumes in another layout."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_trainer import QUICK, lines
from torch._dynamo.utils import counters
from toys import TOY, toy_book, toy_episodes

from drivefoundry.model.blocks.attention import should_pack
from drivefoundry.model.text import EOS, PAD
from drivefoundry.model.vla import VLA
from drivefoundry.train.dataset import EpisodeDataset
from drivefoundry.train.trainer import Trainer

SHAPE = replace(TOY, heads=4, kv_heads=2, head_dim=12, qkv_bias=True)
CONFIG = replace(QUICK, steps=8, batch=32, ema=0.9, log_every=1)
LAYOUTS = ((1, 2), (2, 6))
"""Of two ranks, how many share a matmul, and up to which step."""
SCRIPT = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import torch
import torch.distributed as dist
from test_tensor_parallel import CONFIG, LAYOUTS, graphs, made
from drivefoundry.train.trainer import Trainer
compiler = partial(torch.compile, backend="eager")  # the graphs count, not how fast they are
for tensor, stop in LAYOUTS:
    torch.compile = compiler if tensor > 1 else lambda forward, dynamic: forward
    config = replace(CONFIG, shard=True, tensor=tensor, compile=True)
    trainer = Trainer(*made(seed=tensor if stop > 2 else 0), config, Path(sys.argv[1]), Path(sys.argv[2]))
    assert trainer.weights.tensor == tensor
    while trainer.step < stop:
        metrics = trainer._one_step(trainer.progress())
        trainer.step += 1
        trainer._report(metrics)
        first = graphs() if trainer.step in (1, 3) else first
    assert graphs() == first, "another batch, another graph"
    trainer.save()
    trainer.state.wait()
dist.destroy_process_group()
"""


def made(seed: int = 0) -> tuple[VLA, EpisodeDataset]:
    """Batches in which the number of samples with reasoning varies."""
    torch.manual_seed(seed)
    dataset = EpisodeDataset.of([toy_episodes(96)], toy_book(), None, SHAPE.max_text)
    words = np.random.default_rng(1).integers(5, 200, (96, 5))
    words[:, -1] = EOS
    words[np.random.default_rng(2).random(96) < 0.4] = PAD
    return VLA(SHAPE), replace(dataset, text=words, text_mirrored=words)


def graphs() -> int:
    """Number of graphs that the process has compiled."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def alone():
    """The single-process group that a sharded Trainer creates, removed afterwards."""
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks at it itself
def test_a_state_resumes_in_any_layout_and_learns_the_same(tmp_path, alone, monkeypatch):
    model, dataset = made()
    Trainer(model, dataset, CONFIG, log=tmp_path / "whole.jsonl").run()
    script = tmp_path / "layouts.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *torchrun, str(script), str(tmp_path / "state"), str(tmp_path / "cut.jsonl")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    last, config = made(seed=5)[0], replace(CONFIG, shard=True, compile=True)
    before = graphs()
    Trainer(last, dataset, config, tmp_path / "state", tmp_path / "cut.jsonl").run()
    assert graphs() - before == 4  # with reasoning and without, the last block and those before it
    one, cut = lines(tmp_path / "whole.jsonl"), lines(tmp_path / "cut.jsonl")
    assert list(cut) == list(one) == list(range(1, 9))
    assert np.allclose(list(cut.values()), list(one.values()), atol=1e-4)
    left = last.state_dict()
    assert all(torch.allclose(left[name], p, atol=1e-4) for name, p in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_packed_batches_of_a_cut_model_are_one_graph(alone, monkeypatch):
    model, dataset = made()
    rng, words = np.random.default_rng(3), np.full((96, SHAPE.max_text), PAD)
    for row, length in zip(words, rng.integers(1, SHAPE.max_text, 96), strict=True):
        row[:length] = [*rng.integers(5, 200, length - 1), EOS]
    dataset = replace(dataset, text=words, text_mirrored=words)
    assert should_pack(torch.from_numpy(words != PAD), SHAPE.prefix + 8)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    config = replace(CONFIG, compile=True, augment=replace(CONFIG.augment, text=1.0))
    cut, whole = Trainer(made()[0], dataset, replace(config, shard=True)), Trainer(model, dataset, config)
    there = []
    for step in range(6):
        cut.step = whole.step = step
        assert cut._one_step(0.5)["loss"] == pytest.approx(whole._one_step(0.5)["loss"], abs=1e-4)
        there.append(graphs())
    assert there[2:] == there[2:3] * 4


def test_what_cannot_share_a_matmul_is_refused(alone):
    with pytest.raises(ValueError, match="tensor: above 1 it needs shard=true"):
        replace(CONFIG, tensor=2).validate()
    with pytest.raises(ValueError, match="tensor 2 does not divide 1 ranks"):
        Trainer(*made(), replace(CONFIG, shard=True, tensor=2))
    with pytest.raises(ValueError, match="3 tensor-parallel devices do not divide 4 heads"):
        Trainer(*made(), replace(CONFIG, shard=True, tensor=3))
