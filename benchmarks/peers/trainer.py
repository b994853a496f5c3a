"""The Hugging Face Trainer on our samples, a few steps at a time: prints a line of JSON for each line of input.

    python trainer.py SAMPLES.npz SETTINGS

SETTINGS (JSON): shape, the model's numbers; batch, turn (steps per line), steps (in total), lr; arguments, further
`TrainingArguments`; layout of a batch's samples: 'padded' to the longest, or 'packed' two to a row, the longest with
the shortest, without attention between them.

The model is a LlamaForCausalLM with our decoder's shape behind our own inputs (two-layer patch stem, ego and route
MLP), which take the places of image, ego and route in its sequence, and it has our loss: cross entropy of the action
codes, plus 0.2 times that of the text. A line reports the seconds of the turn and the cross entropy of held-out action
codes.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version

SAY = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

FAR = -30_000.0
Sample = dict[str, np.ndarray]


class Driver(nn.Module):
    """Loss and logits of samples in one layout."""

    def __init__(self, shape: dict):
        super().__init__()
        self.shape, d = shape, shape["dim"]
        self.llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape["vocab"], hidden_size=d, intermediate_size=shape["ffn"],
                num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
                num_key_value_heads=shape["kv_heads"], head_dim=shape["head_dim"], rms_norm_eps=shape["norm_eps"],
                tie_word_embeddings=True, max_position_embeddings=512, use_cache=False,
                pad_token_id=0, bos_token_id=None, eos_token_id=1,
            )
        )  # fmt: skip
        cells = (shape["patch"] // 8) ** 2
        self.cell, self.patch = nn.Linear(2 * 3 * 64, shape["stem"]), nn.Linear(cells * shape["stem"], d)
        self.position = nn.Parameter(torch.zeros(shape["prefix"] - 3, d))
        self.ego = nn.Sequential(nn.Linear(12, d), nn.SiLU(), nn.Linear(d, d))
        self.route = nn.Sequential(nn.Linear(12, d), nn.SiLU(), nn.Linear(d, d))

    def image(self, frames: Tensor) -> Tensor:
        """Patch tokens (B, P, D) of frames (B, 2, H, W, 3) uint8."""
        b, _, height, width, _ = frames.shape
        n = self.shape["patch"] // 8
        x = frames.view(b, 2, height // (8 * n), n, 8, width // (8 * n), n, 8, 3).permute(0, 2, 5, 3, 6, 1, 4, 7, 8)
        x = x.reshape(b, -1, n * n, 2, 192).to(self.cell.weight.dtype)
        before, now = x.unbind(3)
        x = F.gelu(self.cell(torch.cat([now / 64 - 2, (now - before) / 32], -1)), approximate="tanh")
        return self.patch(x.flatten(2)) + self.position

    def forward(
        self,
        frames: Tensor,
        ego: Tensor,
        route: Tensor,
        input_ids: Tensor,
        places: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        weights: Tensor,
    ) -> dict[str, Tensor]:
        """places: positions of each sample's image, ego and route among all ids of a row; weights: of each label's
        loss."""
        seen = [self.image(frames), self.ego(ego.flatten(1))[:, None], self.route(route)[:, None]]
        told = self.llama.model.embed_tokens(input_ids)
        x = told.flatten(0, 1).index_copy(0, places.flatten(), torch.cat(seen, 1).flatten(0, 1).to(told.dtype))
        if attention_mask.ndim == 4:
            attention_mask = attention_mask.to(x.dtype)
        out = self.llama(inputs_embeds=x.view(told.shape), position_ids=position_ids, attention_mask=attention_mask)
        each = F.cross_entropy(out.logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        return {"loss": (each * weights.flatten()).sum(), "logits": out.logits}


class Samples(torch.utils.data.Dataset):
    """One side's samples: pictures and numbers unchanged, its tokens in a row (see `row`)."""

    def __init__(self, arrays: dict[str, np.ndarray], side: str, shape: dict):
        self.arrays = {k.removeprefix(side): v for k, v in arrays.items() if k.startswith(side)}
        self.rows = [row(*two, shape) for two in zip(self.arrays["text"], self.arrays["tokens"], strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        return {k: self.arrays[k][i] for k in ("frames", "ego", "route")} | self.rows[i]


def row(text: np.ndarray, codes: np.ndarray, shape: dict) -> Sample:
    """[task][image, ego, route] [think, text]? [act, codes but the last], and the target of each: text, codes, or 0."""
    words, ids = text[text != 0], np.zeros(shape["prefix"], np.int64)
    ids[0] = task = shape["text_vocab"] + shape["codes"]
    said = np.concatenate([[task + 1], words[:-1]]) if len(words) else words
    own = codes + shape["text_vocab"]
    ids = np.concatenate([ids, said, [task + 2], own[:-1]])
    labels = np.concatenate([np.zeros(shape["prefix"], np.int64), words, own])
    return {"input_ids": ids, "labels": labels}


class Layout:
    """Arranges samples as arguments of `Driver.forward`."""

    def __init__(self, shape: dict, packed: bool):
        self.shape, self.packed = shape, packed

    def __call__(self, samples: list[Sample]) -> dict[str, Tensor]:
        samples = sorted(samples, key=lambda s: len(s["input_ids"])) if self.packed else samples
        half = len(samples) // 2
        rows = [[i, len(samples) - 1 - i] for i in range(half)] if self.packed else [[i] for i in range(len(samples))]
        length = max(sum(len(samples[i]["input_ids"]) for i in r) for r in rows)
        length += -length % 16 if self.packed else 0
        ids, labels, positions, of = (np.zeros((len(rows), length), np.int64) for _ in range(4))
        places = np.zeros((len(samples), self.shape["prefix"] - 1), np.int64)
        for k, members in enumerate(rows):
            at = 0
            for i in members:
                end = at + len(samples[i]["input_ids"])
                ids[k, at:end], labels[k, at:end] = samples[i]["input_ids"], samples[i]["labels"]
                positions[k, at:end], of[k, at:end] = np.arange(end - at), 1 + i
                places[i] = k * length + at + 1 + np.arange(places.shape[1])
                at = end
        mask = torch.from_numpy((of > 0).astype(np.int64))
        if self.packed:
            see = (of[:, :, None] == of[:, None, :]) & np.tri(length, dtype=bool)
            mask = torch.from_numpy(np.where(see, np.float32(0), np.float32(FAR)))[:, None]
        is_code, is_text = labels >= self.shape["text_vocab"], (labels > 0) & (labels < self.shape["text_vocab"])
        weights = is_code / is_code.sum() + 0.2 * is_text / max(is_text.sum(), 1)
        whole = {"input_ids": ids, "labels": labels, "position_ids": positions, "places": places}
        out = {k: torch.from_numpy(v) for k, v in whole.items()}
        out |= {k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in ("frames", "ego", "route")}
        return out | {"attention_mask": mask, "weights": torch.from_numpy(weights.astype(np.float32))}


class Turns(TrainerCallback):
    """Trains `turn` steps per line of input and prints a line of JSON for each."""

    def __init__(self, driver: Driver, held_out: dict[str, Tensor], turn: int, bf16: bool):
        self.driver, self.held_out, self.turn, self.bf16 = driver, held_out, turn, bf16
        self.begun = self.worked = 0.0

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.begun, self.worked = time.perf_counter(), time.process_time()

    def on_train_begin(self, args, state, control, **_):
        self.wait()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.turn:
            return
        seconds, cpu = time.perf_counter() - self.begun, time.process_time() - self.worked
        print(json.dumps({"seconds": seconds, "cpu": cpu, "loss": self.loss()}), file=SAY, flush=True)
        self.wait()

    @torch.no_grad()
    def loss(self) -> float:
        self.driver.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.driver(**self.held_out)["logits"].float()
        self.driver.train()
        first, labels = self.driver.shape["text_vocab"], self.held_out["labels"]
        codes = labels >= first
        logits = logits[codes][:, first : first + self.driver.shape["codes"]]
        return float(F.cross_entropy(logits, labels[codes] - first))


def main() -> None:
    asked = json.loads(sys.argv[2])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_seed(0)
    arrays, shape = dict(np.load(sys.argv[1])), asked["shape"]
    train, rest = (Samples(arrays, side, shape) for side in ("train_", "test_"))
    driver, layout = Driver(shape), Layout(shape, asked["layout"] == "packed")
    arguments = TrainingArguments(
        output_dir=os.path.dirname(sys.argv[1]), use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none",
        logging_strategy="no", remove_unused_columns=False, per_device_train_batch_size=asked["batch"],
        max_steps=asked["steps"], learning_rate=asked["lr"], **asked["arguments"],
    )  # fmt: skip
    held_out = Layout(shape, False)([rest[i] for i in range(len(rest))])
    turns = Turns(driver, held_out, asked["turn"], arguments.bf16)
    trainer = Trainer(driver, arguments, layout, train, callbacks=[turns])  # pyright: ignore
    trainer.remove_callback(PrinterCallback)
    peers = {name: version(name) for name in ("transformers", "accelerate")}
    about = {"parameters": sum(p.numel() for p in driver.parameters()), "versions": peers}
    print(json.dumps(about), file=SAY, flush=True)
    trainer.train()


if __name__ == "__main__":
    main()
