"""Sharded weights learn what unsharded ones learn, and one rank can resume what two ranks saved."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import QUICK, lines, made

from drivefoundry.train.config import Augment
from drivefoundry.train.dataset import Sampler, batches
from drivefoundry.train.distributed.fsdp import equalized
from drivefoundry.train.trainer import Trainer

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from test_trainer import QUICK, made
from drivefoundry.train.trainer import Trainer
state, log, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model, dataset = made()
trainer = Trainer(model, dataset, replace(QUICK, shard=True, ema=0.9, log_every=1), state, log)
while trainer.step < stop:
    metrics = trainer._one_step(trainer.progress())
    trainer.step += 1
    trainer._report(metrics)
if trainer.step == stop:
    trainer.save()
    trainer.state.wait()
else:
    trainer.run()
    if trainer.rank == 0:
        torch.save(model.state_dict(), log.with_suffix(".weights"))
    trainer.forget()
torch.distributed.destroy_process_group()
"""


def run(tmp_path: Path, stop: int, ranks: int) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *torchrun, str(script), str(tmp_path / "state"), str(tmp_path / "log.jsonl"), str(stop)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_one_rank_resumes_what_two_ranks_saved(tmp_path):
    model, dataset = made()
    Trainer(model, dataset, replace(QUICK, ema=0.9, log_every=1), log=tmp_path / "whole.jsonl").run()
    run(tmp_path, 6, ranks=2)
    kept = [json.loads(row)["step"] for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kept == [1, 2, 3, 4, 5, 6]
    run(tmp_path, 0, ranks=1)
    one, cut = lines(tmp_path / "whole.jsonl"), lines(tmp_path / "log.jsonl")
    assert list(one) == list(cut)
    assert np.allclose(list(one.values()), list(cut.values()), atol=1e-4)
    weights = torch.load(tmp_path / "log.weights")
    assert all(torch.allclose(weights[name], p, atol=1e-4) for name, p in model.state_dict().items())
    assert not (tmp_path / "state").exists()


def test_every_rank_has_a_batch_with_text_and_one_without():
    _, dataset = made()
    dataset.text[:, 0] = 5  # all talk
    share = batches(dataset, Sampler(len(dataset), 0), 0, 8, Augment(text=1.0))
    assert [b.text is not None for b in share] == [True]
    with_text, without = equalized(share, dataset.text.shape[1])
    assert with_text is share[0]
    assert without.text is None
    assert len(without) == 1
    assert float(without.weight.sum()) == 0.0
    three = equalized(
        batches(dataset, Sampler(len(dataset), 0), 0, 7, Augment(text=1.0)), dataset.text.shape[1], times=3
    )
    assert [len(b) for b in three] == [9, 3]
    assert three[0].weight.tolist() == [1.0] * 7 + [0.0] * 2
    with pytest.raises(ValueError, match="raise batch"):
        equalized([], 1)
