"""Compare imported and exported backbones with transformers and llama.cpp; prints one line of JSON.

    python -m benchmarks.backbones [--quick] [--shard DIR]

Compares fp32 logits of the same weights, and the greedy tokens of every export under both peers, for tiny random Llama
and Qwen2 models, for SmolLM2-135M-Instruct from its 4-bit GGUF file, and for the language model of a VLA around it;
with --shard, also after fine-tuning it for 200 steps on a shard of episodes (artefacts/label-*/shard of a run), without
repeating any. Needs the extra `interop`; --quick leaves SmolLM2 out. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.figures import report
from drivefoundry.label.episodes import load_shard
from drivefoundry.model.backbones.exports import extract, save_gguf, save_hf
from drivefoundry.model.backbones.load import SMOLLM2, Backbone, adopt, load_backbone
from drivefoundry.model.backbones.vocabulary import CUTS
from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.train.config import SftConfig
from drivefoundry.train.pretrain import around, fit

try:
    from benchmarks.peers.language import llama_cpp_greedy, random_model, transformers_greedy, transformers_model
except ModuleNotFoundError as error:
    raise SystemExit(f"benchmarks.backbones: {error.name} is not installed; pip install '.[interop]'") from None

PROMPTS = ("The car ahead brakes, so", "A red light at 30 m: the driver", "Once upon a time")
LIMIT = 64
NEAR = 1e-4
"""Maximum difference of logits that are equal in fp32."""
STEPS, BATCH, RATE = 200, 4, 3e-4
"""Parameters of fine-tuning, in which half of the samples have reasoning."""
FALLEN = 0.8
"""Maximum ratio of the loss over the last tenth of the steps to that over the first ten steps."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backbones", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="tiny random models only")
    parser.add_argument("--shard", type=Path, help="episodes to fine-tune SmolLM2 on")
    given = parser.parse_args()
    quick = given.quick
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as made:
        for family in ("llama", "qwen2"):
            figures |= measure(f"tiny_{family}", tiny(Path(made) / f"{family}_given", family), Path(made))
        if not quick:
            backbone = load_backbone(SMOLLM2)
            figures |= measure("smollm2", backbone, Path(made))
            vla, tokenizer = adopt(backbone)
            figures |= measure("smollm2_vla", extract(vla, tokenizer), Path(made))
            if given.shard is not None:
                figures |= fine_tuned(given.shard, Path(made))
    targets = {}
    for name, value in figures.items():
        if name.endswith("logit_difference"):
            targets[name] = (value, NEAR, value <= NEAR)
        elif name.endswith("same_tokens_share"):
            targets[name] = (value, 1.0, value == 1.0)
        elif name.endswith("loss_after_over_before"):
            targets[name] = (value, FALLEN, value <= FALLEN)
    peers = {name: version(name) for name in ("transformers", "xllamacpp")}
    print(report(figures, targets, peers), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def tiny(folder: Path, family: str) -> Backbone:
    """A random model written by `transformers`, with a byte-level BPE of 300 ids, and loaded."""
    random_model(folder, family)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = CUTS["llama-bpe" if family == "llama" else "qwen2"]  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(PROMPTS * 4, trainer)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return load_backbone(folder)


def fine_tuned(shard: Path, folder: Path) -> dict[str, float]:
    """Fine-tune a VLA around SmolLM2 in bf16, as the line does; returns loss before and after, time, and `measure` of
    the trained model's exports."""
    episodes, out = [load_shard(shard)], folder / "tuned"
    config = SftConfig(steps=STEPS, batch=BATCH, lr=RATE, optimiser="adamw", compile=False)
    parts: list[dict[str, float]] = []
    begun = time.process_time()
    done = fit(around(episodes, SMOLLM2, ego_changes=False), episodes, out, config, on_step=lambda *a: told(parts, *a))
    spent = time.process_time() - begun
    before, after = done.losses[:10].mean(), done.losses[-STEPS // 10 :].mean()
    figures = {
        "loss_first_10_steps": before, "loss_last_20_steps": after, "loss_after_over_before": after / before,
        "action_loss_step_10": parts[0]["action"], "action_loss_step_200": parts[-1]["action"],
        "text_loss_step_10": parts[0]["text"], "text_loss_step_200": parts[-1]["text"],
        "s_per_step": done.seconds / done.steps, "cpu_s_per_step": spent / done.steps,
        "samples_skipped": done.skipped * BATCH,
    }  # fmt: skip
    loaded = load_checkpoint(out)
    exported = measure("smollm2_tuned", extract(loaded.model, loaded.tokenizer), folder)
    return {f"smollm2_tuned_{k}": float(v) for k, v in figures.items()} | exported


def told(parts: list[dict[str, float]], step: int, total: int, metrics: dict[str, float]) -> None:
    """Store and print the components of a step's loss."""
    if "action" in metrics:
        parts.append(metrics)
        print(
            f"step {step} of {total}: " + ", ".join(f"{k} {metrics[k]:.3f}" for k in ("loss", "action", "text")),
            file=sys.stderr,
        )


@torch.no_grad()
def measure(name: str, backbone: Backbone, folder: Path) -> dict[str, float]:
    """Export to both formats; returns the greatest difference of logits from `transformers` over the prompts and their
    continuations, and each peer's share of greedy tokens equal to ours."""
    hf, gguf = folder / f"{name}_hf", folder / f"{name}.gguf"
    save_hf(hf, backbone)
    save_gguf(gguf, backbone)
    cut, mine, peer = Tokenizer.from_str(backbone.tokenizer.decode()), backbone.language(), transformers_model(hf)
    prompts = [cut.encode(p).ids for p in PROMPTS]
    begun = time.process_time()
    said = mine.generate(prompts, LIMIT, end=backbone.end)
    spent = time.process_time() - begun
    off = 0.0
    for prompt, words in zip(prompts, said, strict=True):
        ids = torch.tensor([prompt + words])
        off = max(off, float((mine(ids) - peer(ids).logits).abs().max()))
    theirs = {
        "transformers": transformers_greedy(hf, PROMPTS, LIMIT),
        "llama_cpp": llama_cpp_greedy(gguf, PROMPTS, LIMIT),
    }
    shares = {f"{name}_{k}_same_tokens_share": same(said, words) for k, words in theirs.items()}
    speed = {f"{name}_tokens_per_cpu_s": sum(map(len, said)) / spent}
    return {f"{name}_logit_difference": off, **shares, **speed}


def same(mine: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of all tokens that are equal at the same position."""
    pairs = [
        (a[i : i + 1], b[i : i + 1]) for a, b in zip(mine, theirs, strict=True) for i in range(max(len(a), len(b)))
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


if __name__ == "__main__":
    sys.exit(main())
