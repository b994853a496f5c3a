"""Readers of models for `benchmarks.readers`: tensors, language models, tokenizers, engines."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import mutations

Spoil = Callable[[random.Random, bytes], bytes]


class Reader(NamedTuple):
    """A reader to fuzz. seeds: valid inputs; spoil: mutates one of them; read: the code under test."""

    seeds: list[bytes]
    spoil: Spoil
    read: Callable[[bytes], object]


def read_from(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Turn a reader of files into one of bytes."""

    def written(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return written


def tensors(folder: Path) -> Reader:
    from drivefoundry.model.tensors import read_tensors, write_tensors

    path = folder / "x.safetensors"
    write_tensors(path, {"w": np.ones((4, 32), np.float32), "v": np.ones(3, np.float32), "s": np.ones((), np.float32)})
    seed = path.read_bytes()

    def spoil(dice: random.Random, data: bytes) -> bytes:
        if dice.random() < 0.2:
            return mutations.blind(dice, data)
        start = 8 + int.from_bytes(data[:8], "little")
        head = mutations.json_text(dice, data[8:start])
        size = len(head) if dice.random() < 0.9 else dice.choice(mutations.NUMBERS[:20]) & 2**64 - 1
        return size.to_bytes(8, "little") + head + data[start:]

    return Reader([seed], spoil, read_from(path, read_tensors))


def gguf(folder: Path) -> Reader:
    from drivefoundry.model.gguf import read_gguf, write_gguf

    path = folder / "x.gguf"
    write_gguf(path, {"a": "b", "general.alignment": 32, "c": [1, 2], "d": ["x", "y"], "e": 0.5, "f": True},
               {"w": np.ones((4, 32), np.float32), "v": np.ones(3, np.float32)})  # fmt: skip

    def spoil(dice: random.Random, data: bytes) -> bytes:
        if dice.random() < 0.5:
            return mutations.blind(dice, data)
        depth = dice.choice((1, 7, 8, 9, 100, 100_000))
        kind, count = dice.choice((*range(13), 2**31)), dice.choice((0, 1, 2, 9, 2**20, 2**40, 2**64 - 1))
        value = struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", kind, count) + dice.randbytes(dice.randrange(64))
        table = b"".join(
            struct.pack("<Q", 1) + dice.choice((b"w", b"v", b"\xff"))
            + struct.pack("<I", axes := dice.choice((0, 1, 2, 4, 5, 2**31)))
            + b"".join(struct.pack("<Q", dice.choice(mutations.NUMBERS[:12]) & 2**64 - 1) for _ in range(axes % 8))
            + struct.pack("<IQ", dice.choice((*range(31), 99)), dice.choice((0, 32, 64, 1, 2**63)))
            for _ in range(dice.randrange(3))
        )  # fmt: skip
        head = b"GGUF" + struct.pack("<IQQ", 3, dice.choice((0, 1, 2, 2**40)), dice.choice((0, 1, 2**40)))
        return head + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + value + table + dice.randbytes(200)

    return Reader([path.read_bytes()], spoil, read_from(path, read_gguf))


def _saved(folder: Path, family: str) -> Path:
    """A Hugging Face directory of a language model of random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from drivefoundry.model.backbones.exports import save_hf
    from drivefoundry.model.backbones.load import Backbone
    from drivefoundry.model.backbones.vocabulary import CUTS
    from drivefoundry.model.config import ModelConfig
    from drivefoundry.model.language import Language
    from drivefoundry.model.text import OWN

    cut = Tokenizer(models.BPE())
    cut.pre_tokenizer, cut.decoder = CUTS["llama-bpe"], decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    cut.train_from_iterator(["the car ahead brakes"], trainer)
    config = ModelConfig(
        dim=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32, text_vocab=OWN + 280, text_shift=OWN, tied=False,
        qkv_bias=family == "qwen2",
    )  # fmt: skip
    weights = {name: torch.ones(p.shape) for name, p in Language(config).state_dict().items()}
    save_hf(folder, Backbone(config, weights, cut.to_str().encode(), context=512))
    return folder


def backbone_gguf(folder: Path) -> Reader:
    """Metadata of a whole language model, changed and written again."""
    from drivefoundry.model.backbones.exports import save_gguf
    from drivefoundry.model.backbones.load import load_backbone
    from drivefoundry.model.gguf import read_gguf, write_gguf

    path, made = folder / "model.gguf", folder / "made.gguf"
    save_gguf(path, load_backbone(_saved(folder / "given", "llama")))
    held = read_gguf(path)
    seed = json.dumps(held.fields).encode()

    def read(data: bytes) -> object:
        fields: dict[str, Any] = {}
        told = json.loads(data)
        for key, value in told.items() if isinstance(told, dict) else ():
            one = value[:1] if isinstance(value, list) else [value]
            if (
                one
                and isinstance(one[0], (str, int, float))
                and abs(one[0] if not isinstance(one[0], str) else 0) < 2**31
            ):
                fields[key] = value
        try:
            write_gguf(made, fields, held.tensors)
        except (struct.error, AttributeError, TypeError, ValueError, OverflowError):
            return None  # not writable, so not an input
        return load_backbone(made)

    def spoil(dice: random.Random, data: bytes) -> bytes:
        return json.dumps(mutations.tree(dice, json.loads(data)), default=str).encode()

    return Reader([seed], spoil, read)


def backbone_hf(folder: Path) -> Reader:
    """The JSON files of a Hugging Face directory, changed."""
    from drivefoundry.model.backbones.load import load_backbone

    given = _saved(folder / "given", "qwen2")
    names = [
        name for name in ("config.json", "generation_config.json", "tokenizer_config.json") if (given / name).is_file()
    ]
    seed = json.dumps({name: json.loads((given / name).read_text()) for name in names}).encode()

    def read(data: bytes) -> object:
        told = json.loads(data)
        for name, content in told.items() if isinstance(told, dict) else ():
            if Path(name).name == name and name.endswith("config.json"):
                (given / name).write_text(json.dumps(content))
        return load_backbone(given)

    return Reader([seed], lambda dice, data: json.dumps(mutations.tree(dice, json.loads(data))).encode(), read)


def tokenizer(folder: Path) -> Reader:
    from drivefoundry.model.text import TextCodec, train_tokenizer

    seed = train_tokenizer(["the car ahead brakes", "red light"], 120)
    return Reader([seed], mutations.json_text, lambda data: TextCodec(data).encode(["a red light"], 9))


def _engine(folder: Path) -> tuple[Path, bytes]:
    """An engine of an untrained model, and its contract, unsealed."""
    import torch

    from drivefoundry.model.checkpoint import save_checkpoint
    from drivefoundry.model.config import ModelConfig
    from drivefoundry.model.text import TextCodec, train_tokenizer
    from drivefoundry.model.vla import VLA
    from drivefoundry.quantize.export import export_engine
    from drivefoundry_car.vehicle.codec import fit_codebook
    from drivefoundry_car.vehicle.embodiment import CAR

    torch.manual_seed(0)
    config = ModelConfig(
        dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, image=(32, 48), stem=24, text_vocab=160,
        max_text=12, codes=32,
    )  # fmt: skip
    tokenizer = TextCodec(train_tokenizer(["the road is clear"], config.text_vocab))
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), config.codes)
    body = replace(CAR, cameras=(CAR.cameras[0].scaled(48, 32),))
    save_checkpoint(folder / "checkpoint", VLA(config), book, tokenizer, body)
    frames, ego, route = (
        {"front": np.zeros((4, 2, 32, 48, 3), np.uint8)},
        np.ones((4, 4, 3), np.float32),
        np.ones((4, 12), np.float32),
    )
    export_engine(folder / "checkpoint", folder / "engine", frames, ego, route, self_test=1)
    told = json.loads((folder / "engine" / "engine.json").read_text())
    del told["sha256"]
    return folder / "engine", json.dumps(told).encode()


def _run(engine: Path) -> None:
    """Load the engine, plan and reason."""
    from drivefoundry_car.engine import Engine

    held = Engine(engine, threads=1)
    model = held.contract["model"]
    shown = held.embodiment.pictures.items()
    frames = {name: np.zeros((2, model["frames"], *size, 3), np.uint8) for name, size in shown}
    ego = np.full((2, model["history"], model["ego_features"]), 7.0)
    ego[1] = 1e30
    inputs = frames, ego, np.full((2, model["route_features"]), 0.5)
    with np.errstate(all="ignore"):
        held.plan(*inputs)
    held.reason(*inputs)


def contract(folder: Path) -> Reader:
    from drivefoundry_car.engine import files

    engine, seed = _engine(folder)

    def read(data: bytes) -> None:
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            told = None
        raw = files.seal(told) if isinstance(told, dict) and told.pop("sha256", 1) else data
        (engine / files.CONTRACT).write_bytes(raw)
        _run(engine)

    def spoil(dice: random.Random, data: bytes) -> bytes:
        told = json.loads(data)
        part = dice.choice((None, "model", "model", "model", "vocabulary", "tensors", "ego_scale"))
        if part is None:
            return mutations.dumped(dice, mutations.tree(dice, told))
        return mutations.dumped(dice, told | {part: mutations.tree(dice, told[part])})

    return Reader([seed], spoil, read)


def weights(folder: Path) -> Reader:
    """The engine's other files, mutated and resealed."""
    from drivefoundry_car.engine import files

    engine, told = _engine(folder)
    names = (files.CODEBOOK, files.WEIGHTS)

    def read(data: bytes) -> None:
        name, content = names[data[0] % 2], data[1:]
        kept = (engine / name).read_bytes()
        (engine / name).write_bytes(content)
        contract = json.loads(told)
        contract["files"] = {n: hashlib.sha256((engine / n).read_bytes()).hexdigest() for n in contract["files"]}
        (engine / files.CONTRACT).write_bytes(files.seal(contract))
        try:
            _run(engine)
        finally:
            (engine / name).write_bytes(kept)

    seeds = [bytes([i]) + (engine / name).read_bytes() for i, name in enumerate(names)]
    return Reader(seeds, lambda dice, data: data[:1] + mutations.blind(dice, data[1:]), read)
