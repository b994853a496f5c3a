"""Cost of kills in a training run: goodput and its three factors with and without them; prints one line of JSON.

    python -m benchmarks.goodput [--quick] [--minutes 20] [--every 120]

The same run four times: one process, and two ranks under torchrun, each undisturbed and each with a SIGKILL of a rank
at regular intervals, after which a parent (or torchrun) restarts it. All four train the same steps; the loss of each
step must be identical in the undisturbed and the killed run. In addition, 200 steps in fp32 of one rank and of two.
Goodput is measured twice: by the run itself (drivefoundry.train.goodput), and by the parent's clock from the first
start to the last end. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import report

QUIET, KILLED, AGREE = 0.98, 0.90, 1e-4
AGREED_STEPS = 200
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ran:
    """One run over all its restarts: the last one's report (including its startup: seconds from the process's start
    until it could train, and the duration of its first step and of its copies of the state), the parent's seconds,
    kills, and the loss of each step."""

    result: dict[str, float]
    seconds: float
    kills: int
    losses: dict[int, float]

    @property
    def goodput(self) -> float:
        """Goodput by the parent's clock."""
        return self.result["useful_s"] / self.seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goodput", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds each, with a kill every few seconds")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of each of the four runs")
    parser.add_argument("--every", type=float, default=120.0, help="seconds from kill to kill")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        return work(asked.worker)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seconds, every, size = (5.0, 8.0, "0.1M") if asked.quick else (60 * asked.minutes, asked.every, "1M")
    figures: dict[str, float] = {"asked_s": seconds, "kill_every_s": every}
    with tempfile.TemporaryDirectory() as folder:
        figures |= measure(Path(folder), seconds, every, {"size": size, "compile": not asked.quick})
    targets = {}
    for ranks in ("one_rank", "two_ranks"):
        for name, bound in () if asked.quick else (("quiet", QUIET), ("killed", KILLED)):
            value = figures[f"{ranks}_{name}_goodput"]
            targets[f"{ranks}_{name}_goodput"] = (value, bound, value >= bound)
        other = figures[f"{ranks}_losses_that_differ"]
        targets[f"{ranks}_losses_that_differ"] = (other, 0, other == 0)
    apart = figures["one_to_two_ranks_loss_difference"]
    targets["one_to_two_ranks_loss_difference"] = (apart, AGREE, apart <= AGREE)
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def measure(folder: Path, seconds: float, every: float, model: dict) -> dict[str, float]:
    """Measure every figure. A short trial run determines how many steps fill `seconds`, and fills inductor's cache of
    compiled blocks."""
    figures: dict[str, float] = {}
    agreed = {"size": "0.1M", "steps": AGREED_STEPS, "precision": "fp32", "compile": False}
    one, two = (supervised(folder / f"agree{ranks}", agreed, ranks) for ranks in (1, 2))
    apart = [abs(one.losses[step] - two.losses[step]) for step in one.losses]
    figures["one_to_two_ranks_loss_difference"] = max(apart)
    trial = supervised(folder / "trial", model | {"steps": 30}, 1)
    for ranks, name in ((1, "one_rank"), (2, "two_ranks")):
        steps = max(round(seconds * trial.result["steps_per_s"]), 20)
        settings = model | {"steps": steps, "faults_every_s": every}
        quiet = supervised(folder / f"quiet{ranks}", settings, ranks)
        killed = supervised(folder / f"killed{ranks}", settings, ranks, every)
        figures[f"{name}_losses_that_differ"] = sum(killed.losses[s] != loss for s, loss in quiet.losses.items())
        for kind, ran in (("quiet", quiet), ("killed", killed)):
            factors = {k: ran.result[k] for k in ("scheduling", "runtime", "program", "ready_s", "first_step_s")}
            own = ran.result["scheduling"] * ran.result["runtime"]
            said = {"goodput": ran.goodput, "goodput_by_itself": own, "seconds": ran.seconds, "kills": ran.kills}
            new = {f"{name}_{kind}_{k}": v for k, v in (said | factors | {"steps": len(ran.losses)}).items()}
            print(json.dumps(new), file=sys.stderr, flush=True)
            figures |= new
    return figures


def supervised(folder: Path, settings: dict, ranks: int, every: float = float("inf")) -> Ran:
    """Run to the end, restarting what is killed: every `every` seconds one of the ranks, if one is running by then."""
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--max-restarts=1000", "-m"]
    command = [sys.executable, "-m", *(torchrun if ranks > 1 else []), "benchmarks.goodput", "--worker", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    start, kills, last = time.monotonic(), 0, -1
    with (folder / "said.txt").open("w") as said:

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)

        process = begin()
        try:
            while (code := process.poll()) != 0:
                if code == -signal.SIGKILL:
                    process = begin()
                elif code is not None:
                    raise RuntimeError((folder / "said.txt").read_text()[-2000:])
                victim = newest(folder / f"pid{ranks - 1}")
                if time.monotonic() - start > (kills + 1) * every and victim not in (None, last):
                    last = victim
                    with suppress(ProcessLookupError):  # torchrun has ended it together with another
                        os.kill(victim, signal.SIGKILL)
                        kills += 1
                time.sleep(0.02)
        finally:
            process.terminate()  # and its ranks, if this ends early
            process.wait()
    seconds = time.monotonic() - start
    rows = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
    assert len(rows) == settings["steps"], f"{len(rows)} steps were trained, {settings['steps']} were requested"
    return Ran(json.loads((folder / "report.json").read_text()), seconds, kills, {r["step"]: r["loss"] for r in rows})


def newest(file: Path) -> int | None:
    """The process that last reported itself."""
    return int(file.read_text() or 0) or None if file.exists() else None


def work(folder: Path) -> int:
    """One start of a run."""
    from drivefoundry.model.presets import preset
    from drivefoundry.train.config import TrainConfig
    from drivefoundry.train.dataset import EpisodeDataset
    from drivefoundry.train.goodput import process_start
    from drivefoundry.train.pretrain import fresh
    from drivefoundry.train.trainer import Trainer

    settings = json.loads((folder / "settings.json").read_text())
    (folder / f"pid{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
    start = fresh([episodes()], preset(settings.pop("size")))
    config = TrainConfig(batch=32, log_every=1, **settings)
    dataset = EpisodeDataset.of([episodes()], start.codebook, start.tokenizer, start.config.max_text)
    trainer = Trainer(start.model, dataset, config, folder / "state", folder / "log.jsonl")
    ready, before = time.time() - process_start(), trainer.lost
    done = trainer.run()
    if trainer.rank == 0:
        useful = trainer.elapsed - trainer.lost
        result = {"ready_s": ready, "first_step_s": trainer.lost - before}
        result |= {"useful_s": useful, "steps_per_s": done.steps / useful, "program": done.mfu}
        result |= {"scheduling": done.scheduling, "runtime": done.runtime}
        (folder / "report.json").write_text(json.dumps(result))
    return 0


def episodes():
    """256 samples of noise, whose plans follow their first pixels."""
    from drivefoundry.types import Episodes

    n = 256
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2 * n, 64, 160, 3), dtype=np.uint8)
    speed = rng.uniform(4.0, 8.0, n).astype(np.float32)
    bend = (frames[1::2, 0, 0, 0] / 255.0 - 0.5) * 0.1
    along = speed[:, None] * 0.5 * np.arange(1, 9)
    angle = bend[:, None] * along
    future = np.stack([along * np.cos(angle / 2), along * np.sin(angle / 2), angle], -1).astype(np.float32)
    ego = np.zeros((n, 4, 3), np.float32)
    ego[:, :, 0], ego[:, :, 2] = speed[:, None], 1.0
    return Episodes(
        frames={"front": frames}, frame_index=np.arange(2 * n).reshape(n, 1, 2),
        ego=ego, route=np.zeros((n, 12), np.float32),
        future=future, text=["left" if b > 0 else "right" for b in bend], clip=["noise"] * n, t=np.arange(n) * 0.5,
        weight=np.ones(n, np.float32), correction=np.zeros(n, bool),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
