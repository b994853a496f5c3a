"""Training speed: samples per second beside the Hugging Face Trainer, and the share of the matrix peak by size.

    OMP_WAIT_POLICY=passive python -m benchmarks.train [--quick] [--peers PYTHON]

Both sides train a 4M decoder behind the same inputs on the same samples, half of them with reasoning of 6 to 15 tokens,
64 per step, with the same loss, alternating every few steps, on all cores (or OMP_NUM_THREADS). A sample consists of
two pictures of 160x64 px, ego and route, 43 prefix tokens in all, the reasoning and 8 action tokens; the correct action
is visible in the pictures, so that a held-out loss shows learning. Ours is the recipe's Trainer (bf16 with fp32
masters, Muon, compiled blocks); the peer (benchmarks/peers/trainer.py, a LlamaForCausalLM) is the Hugging Face Trainer
with its defaults except for the batch and a learning rate that suits AdamW, and then with settings that make it faster:
`TUNED`. Rates are the best turn's, without compilation; ratios are medians over turns, because neighbouring turns meet
the same machine conditions; `cpu_ratio` is that of the lowest CPU time; `time_ratio` compares the times to the peer's
final loss with its defaults, if both reach it. PYTHON is an interpreter with `transformers` and `accelerate` (by
default this one).

`mfu`: matmul FLOP of forward and backward pass (`train_flop`) per second over the machine's bf16 matrix peak, measured
between the steps; the optimiser, batches and everything else count only as time. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import report
from benchmarks.peer import last_lines, missing, not_installed
from drivefoundry.compute import cores
from drivefoundry.model.checkpoint import Loaded
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.presets import preset
from drivefoundry.train.config import Augment, TrainConfig
from drivefoundry.train.dataset import EpisodeDataset, Sampler, batches
from drivefoundry.train.losses import batch_loss
from drivefoundry.train.pretrain import fresh
from drivefoundry.train.trainer import Trainer, forward_flop
from drivefoundry.types import Episodes
from drivefoundry_car.vehicle.codec import decode
from drivefoundry_car.vehicle.embodiment import CAR

BATCH = 64
PLAIN = Augment(flip=0.0, brightness_jitter=0.0, history_dropout=0.0, text=1.0)
"""Samples without augmentation; all that have reasoning keep it."""
HARD = 1e-3
"""Tolerance of the action targets, m: only the best code counts, as in the peer's loss."""
BF16: dict[str, object] = {"bf16": True}
FAST = BF16 | {"torch_compile": True}
TUNED: dict[str, tuple[str, dict[str, object]]] = {
    "bf16": ("padded", BF16),
    "bf16_compile": ("padded", FAST),
    "bf16_compile_grouped": ("padded", FAST | {"train_sampling_strategy": "group_by_length"}),
    "bf16_packed": ("packed", BF16),
    "bf16_compile_packed": ("packed", FAST),
    "bf16_compile_packed_worker": ("packed", FAST | {"dataloader_num_workers": 1}),
}
"""Settings of the tuned peer: layout of samples in a batch, and `TrainingArguments`."""
DEFAULT_TARGET, TUNED_TARGET = 5.0, 1.2
MFU_TARGETS = {"4M": 0.45, "16M": 0.55, "64M": 0.65}
MFU_BATCH = {"4M": 256, "16M": 256, "64M": 256}
"""Samples per step, for a number of tokens that suits the size; `mfu_SIZE_batch_64` is for the recipe's 64."""
HERE = Path(__file__).parent / "peers"
BRAKE, TURN = (-3.0, -1.0, 1.0), (-0.05, -0.02, 0.0, 0.02, 0.05)


@dataclass(frozen=True)
class Size:
    """Amount of measurement: turns and steps per turn, samples, peers, and repeats of a size's share of the peak."""

    turns: int = 12
    steps: int = 4
    samples: int = 2048
    tuned: tuple[str, ...] = tuple(TUNED)
    sizes: tuple[tuple[str, int], ...] = tuple((size, b) for size in MFU_BATCH for b in (BATCH, MFU_BATCH[size]))
    repeats: int = 5
    compile: bool = True
    """Whether our blocks are compiled, which takes a while the first time."""


QUICK = Size(turns=3, steps=1, samples=256, tuned=("bf16",), sizes=(("4M", BATCH),), repeats=2, compile=False)


@dataclass
class Run:
    """One side's turns: seconds and CPU seconds of each, and the held-out loss after it."""

    seconds: list[float]
    cpu: list[float]
    loss: list[float]

    def rate(self, samples: int) -> float:
        """Samples per second in the best turn after the first, which compiles and warms up."""
        return samples / min(self.seconds[1:])

    def reaches(self, loss: float) -> float:
        """Seconds until the held-out loss reaches `loss`, with the first turn counted as long as the second; inf if
        never."""
        spent = np.cumsum([self.seconds[1], *self.seconds[1:]])
        there = np.flatnonzero(np.array(self.loss) <= loss)
        return float(spent[there[0]]) if len(there) else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, one tuned peer, the smallest size, uncompiled")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="interpreter that has the peer")
    asked = parser.parse_args()
    size = QUICK if asked.quick else Size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores())))
    figures: dict[str, float] = {"threads": torch.get_num_threads(), "batch": BATCH}
    targets: dict[str, tuple[float, float, bool]] = {}
    versions = compare(asked.peers, size, figures, targets)
    for name, batch in size.sizes:
        mfu = tell(figures, f"mfu_{name}_batch_{batch}", *share_of_peak(name, batch, size))
        if batch == MFU_BATCH[name]:
            targets[f"mfu_{name}"] = (mfu, MFU_TARGETS[name], mfu >= MFU_TARGETS[name])
    print(report(figures, targets, versions), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def compare(
    python: str, size: Size, figures: dict[str, float], targets: dict[str, tuple[float, float, bool]]
) -> dict[str, str]:
    """Compare our Trainer and the peer in turns; returns the peer's versions."""
    episodes = situations(size.samples + 256, preset("4M"))
    start = fresh([episodes], replace(preset("4M"), bidirectional=False))
    whole = EpisodeDataset.of([episodes], start.codebook, start.tokenizer, start.config.max_text, HARD)
    datasets = [part_of(whole, slice(0, size.samples)), part_of(whole, slice(size.samples, None))]
    asked = {"default": ("padded", {})} | {name: TUNED[name] for name in size.tuned}
    with tempfile.TemporaryDirectory(prefix="drivefoundry-peers-") as folder:
        export(Path(folder, "samples.npz"), datasets)
        peers = {
            name: Peer(python, Path(folder, "samples.npz"), start.config, size, *two) for name, two in asked.items()
        }
        runs = take_turns(start, datasets, size, peers)
        versions = next(iter(peers.values())).about["versions"]
        figures["parameters"] = start.model.parameter_count()
        figures["peer_parameters"] = peers["default"].about["parameters"]
        for peer in peers.values():
            peer.end()
    turn = size.steps * BATCH
    for name, run in runs.items():
        tell(figures, f"{name}_samples_per_s", run.rate(turn), min(run.cpu[1:]) / turn)
        figures[f"{name}_cpu_ms_per_sample"] = 1e3 * min(run.cpu[1:]) / turn
        figures[f"{name}_held_out_loss"] = run.loss[-1]
    ours, goal = runs.pop("ours"), runs["default"].loss[-1]
    best = min((name for name in runs if name != "default"), key=lambda name: np.median(runs[name].seconds[1:]))
    for kind, name, bound in (("default", "default", DEFAULT_TARGET), ("tuned", best, TUNED_TARGET)):
        theirs = runs[name]
        ratio = tell(figures, f"{kind}_ratio", float(np.median(np.divide(theirs.seconds, ours.seconds)[1:])))
        tell(figures, f"{kind}_cpu_ratio", min(theirs.cpu[1:]) / min(ours.cpu[1:]))
        if np.isfinite(theirs.reaches(goal)):
            tell(figures, f"{kind}_time_ratio", theirs.reaches(goal) / ours.reaches(goal))
        targets[f"{kind}_ratio"] = (ratio, bound, ratio >= bound)
    targets["held_out_loss"] = (ours.loss[-1], goal, ours.loss[-1] <= goal)
    return versions


def take_turns(start: Loaded, datasets: list[EpisodeDataset], size: Size, peers: dict[str, Peer]) -> dict[str, Run]:
    """Run everyone's turns, ours first; after each of ours, it waits for the peers'."""
    runs = {name: Run([], [], []) for name in ("ours", *peers)}
    clock = {"seconds": 0.0, "cpu": time.process_time()}

    def pause(step: int, total: int, metrics: dict[str, float]) -> None:
        if metrics["seconds"] == clock["seconds"]:
            return  # the final call
        ours = runs["ours"]
        ours.seconds.append(metrics["seconds"] - clock["seconds"])
        ours.cpu.append(time.process_time() - clock["cpu"])
        ours.loss.append(held_out(start, datasets[1]))
        for name, peer in peers.items():
            told = peer.turn()
            for field in ("seconds", "cpu", "loss"):
                getattr(runs[name], field).append(told[field])
        last = ", ".join(f"{name} {BATCH * size.steps / run.seconds[-1]:.1f}" for name, run in runs.items())
        say(f"step {step}: samples/s {last}; load {os.getloadavg()[0]:.1f}")
        clock.update(seconds=metrics["seconds"], cpu=time.process_time())

    config = TrainConfig(
        steps=size.turns * size.steps, batch=BATCH, log_every=size.steps, compile=size.compile, augment=PLAIN
    )
    Trainer(start.model, datasets[0], config, on_step=pause).run()
    return runs


@torch.no_grad()
def held_out(start: Loaded, dataset: EpisodeDataset) -> float:
    """Cross entropy of the action codes, nats per code."""
    losses = batches(dataset, Sampler(len(dataset), 0), 0, len(dataset), PLAIN)
    return sum(batch_loss(start.model, batch, TrainConfig().objective)[1]["action"] for batch in losses)


class Peer:
    """The Hugging Face Trainer in a separate process, which trains on request."""

    def __init__(
        self, python: str, samples: Path, config: ModelConfig, size: Size, layout: str, arguments: dict[str, object]
    ):
        shape = asdict(config) | {"vocab": config.vocab, "prefix": config.prefix}
        settings = {
            "shape": shape, "batch": BATCH, "turn": size.steps, "steps": (size.turns + 1) * size.steps, "lr": 1e-3,
            "layout": layout, "arguments": arguments,
        }  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "false"}
        absent = missing(python, "transformers", "accelerate")
        if absent:
            raise SystemExit(not_installed(python, absent, "transformers and accelerate"))
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the peer
        self.process = subprocess.Popen(
            [python, "-P", str(HERE / "trainer.py"), str(samples), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=environment,
        )  # fmt: skip
        self.about = self.read()

    def read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise SystemExit(f"peer trainer.py ended with exit code {code}; its last lines:\n{last_lines(self.said)}")
        return json.loads(line)

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.process.communicate()
        self.said.close()


def share_of_peak(name: str, batch: int, size: Size) -> tuple[float, float]:
    """Share of the matrix peak that the recipe's training of a size reaches, with reasoning in half of the samples, and
    CPU seconds per sample: best step over best peak."""
    config = preset(name)
    episodes = situations(4 * BATCH, config, talk=1.0)
    start = fresh([episodes], config)
    dataset = EpisodeDataset.of([episodes], start.codebook, start.tokenizer, config.max_text)
    talk, length = round(batch * Augment().text), dataset.text.shape[1]
    flop = talk * train_flop(config, length) + (batch - talk) * train_flop(config, 0)
    rates, peaks, cpu, clock = [], [], [], [0.0, 0.0]

    def note(step: int, total: int, metrics: dict[str, float]) -> None:
        seconds, worked = metrics["seconds"] - clock[0], time.process_time() - clock[1]
        if step > 2 and seconds > 0:  # the first step compiles, the second allocates memory
            rates.append(flop / seconds)
            cpu.append(worked / batch)
        peaks.append(matrix_peak())
        clock[:] = metrics["seconds"], time.process_time()

    steps = TrainConfig(steps=size.repeats + 2, batch=batch, log_every=1, compile=size.compile)
    Trainer(start.model, dataset, steps, on_step=note).run()
    say(f"{name} batch {batch}: {max(rates) / 1e9:.0f} of {max(peaks) / 1e9:.0f} GFLOP/s")
    return max(rates) / max(peaks), min(cpu)


def matrix_peak() -> float:
    """FLOP/s of the best of five products of bf16 matrices with 1,536 rows and columns."""
    n, seconds = 1536, []
    a, b = (torch.randn(n, n).bfloat16() for _ in range(2))
    for _ in range(5):
        begun = time.perf_counter()
        float((a @ b)[0, 0])
        seconds.append(time.perf_counter() - begun)
    return 2 * n**3 / min(seconds)


def train_flop(c: ModelConfig, text: int) -> float:
    """Matmul FLOP of a sample's forward and backward pass with `text` positions for reasoning, counting only what is
    computed: 3 F - S.

    F = S + 2 P n w D + sum over layers of (2 R D (2 H K + 3 M) + 4 T D N K + 4 R T H K) + 2 D (8 C + L V), with
    S = 2 (6 h b) w the stem's first layer on pictures of h x b px, whose input needs no gradient; P patches of n cells,
    w the stem's and D the decoder's width, H heads and N key-value heads of K, M the SwiGLU's width, C codes, L the
    text places, V the text vocabulary, T all tokens, and R the rows that a layer computes: T, in the last one L + 8.
    Every product of matrices costs twice that backwards. Masked scores are computed, so they count; norms, embeddings,
    the two small input MLPs and the optimiser do not.
    """
    pixels = c.image[0] * c.image[1] * 3 * c.frames
    return 3 * forward_flop(c, text) - 2 * pixels * c.stem


def situations(n: int, config: ModelConfig, talk: float = 0.5) -> Episodes:
    """n samples in whose second picture a bright square in noise shows by its column how to steer and by its size how
    to brake; a share `talk` of them has reasoning that says so."""
    rng = np.random.default_rng(0)
    turn, brake = rng.integers(0, len(TURN), n), rng.integers(0, len(BRAKE), n)
    speed = rng.uniform(4.0, 12.0, n).astype(np.float32)
    frames = rng.integers(0, 90, (2 * n, *config.image, 3), dtype=np.uint8)
    for i in range(n):
        column, side = 16 + 28 * turn[i], 8 + 8 * brake[i]
        frames[2 * i + 1, 16 : 16 + side, column : column + side] += 100
    book = np.array([[a, c] for a in BRAKE for c in TURN])
    code = brake * len(TURN) + turn
    ego = np.zeros((n, config.history, config.ego_features), np.float32)
    ego[:, :, 0], ego[:, :, 2] = speed[:, None], 1.0
    route = np.zeros((n, config.route_features), np.float32)
    route[:, 8] = 1.0
    says = [reason(rng, t, b) if quiet < talk else "" for t, b, quiet in zip(turn, brake, rng.random(n), strict=True)]
    return Episodes(
        frames={"front": frames}, frame_index=np.arange(2 * n).reshape(n, 1, 2), ego=ego, route=route,
        future=decode(np.repeat(code[:, None], 8, 1), book, speed), text=says, clip=["clip"] * n,
        t=np.arange(n) * 0.5, weight=np.ones(n, np.float32), correction=np.zeros(n, bool),
        embodiment=replace(CAR, cameras=(CAR.cameras[0].scaled(config.image[1], config.image[0]),)),
    )  # fmt: skip


def reason(rng: np.random.Generator, turn: int, brake: int) -> str:
    """A line of reasoning as `drivefoundry.label.reason` writes it: the road, now and then a lead car, the decision."""
    bend = ("sharp curve right", "curve right", "straight", "curve left", "sharp curve left")[turn]
    gap, closing = rng.choice([5, 10, 15, 20, 30, 40]), rng.choice(["opening", "steady", "closing 2", "closing 4"])
    lead = f"lead car {gap} m {closing} | " if rng.random() < 0.5 else ""
    return (
        f"{lead}{bend}, {rng.choice(['steady', 'rising', 'falling'])} speed | {('brake', 'slow', 'accelerate')[brake]}"
    )


def part_of(dataset: EpisodeDataset, rows: slice) -> EpisodeDataset:
    """A subset of the samples."""
    names = ("part", "index", "ego", "route", "tokens", "text", "text_mirrored", "weight", "target")
    return replace(dataset, **{name: getattr(dataset, name)[rows] for name in names})


def export(path: Path, datasets: list[EpisodeDataset]) -> None:
    """Write the peer's training and test samples."""
    arrays = {}
    for side, dataset in zip(("train", "test"), datasets, strict=True):
        ego = dataset.ego * np.array([0.1, 2.0, 1.0], np.float32)
        arrays |= {f"{side}_frames": dataset.pictures(np.arange(len(dataset)))["front"], f"{side}_ego": ego}
        arrays |= {f"{side}_{name}": getattr(dataset, name) for name in ("route", "tokens", "text")}
    np.savez(path, **arrays)


def tell(figures: dict[str, float], name: str, value: float, cpu: float | None = None) -> float:
    """Store and print a figure with CPU seconds per sample, if known, and the machine's load; returns the figure."""
    figures[name] = value
    spent = "" if cpu is None else f"{1e3 * cpu:9.2f} ms CPU a sample"
    say(f"{name:<44} {value:>10,.3f} {spent:<28} load {os.getloadavg()[0]:.1f}")
    return value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
