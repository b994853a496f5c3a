"""`model import`, `model show` and `model export`: language models in, what a model is, its language model out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import parse
from drivefoundry.cli.verbs import PROG
from drivefoundry.settings import nearest

if TYPE_CHECKING:
    from drivefoundry.model.config import ModelConfig

_MODEL = {
    "import": ("BACKBONE", "a language model, and eyes and plans around it, as a checkpoint to train"),
    "show": ("MODEL", "how large a model is, what it asks of memory, what its sequence is made of"),
    "export": ("MODEL", "the language model of a trained model, for transformers (--hf) or llama.cpp (--gguf)"),
}
_PARTS = {"stem": "eyes", "ego_in": "ego and route", "ego_out": "ego and route", "route_in": "ego and route",
          "route_out": "ego and route", "embed": "vocabulary", "own_head": "vocabulary"}  # fmt: skip


@dataclass(frozen=True)
class ImportOptions:
    """What `model import` understands."""

    what: Annotated[tyro.conf.Positional[str], arg(metavar="BACKBONE")]
    """smollm2, a .gguf file, or a Hugging Face directory of the Llama or Qwen2 family."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("model")
    """Gets the checkpoint; --set train.backbone=DIR trains it."""
    action: Literal["codes", "flow"] = "codes"
    """How a plan leaves the model: as codes of its vocabulary, or by flow matching."""


@dataclass(frozen=True)
class ShowOptions:
    """What `model show` understands."""

    what: Annotated[tyro.conf.Positional[str], arg(metavar="MODEL")]
    """A checkpoint directory, or a size: 0.1M to 72B."""


@dataclass(frozen=True)
class ExportOptions:
    """What `model export` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="MODEL")]
    """A checkpoint directory."""
    hf: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Gets a directory that transformers loads."""
    gguf: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Gets a file that llama.cpp loads."""
    form: Literal["F32", "F16", "Q8_0"] = "F32"
    """Of the matrices in FILE."""


def run(rest: list[str]) -> None:
    """`model import`, `model show` and `model export`."""
    if not rest or rest[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {PROG} model {name:6} {of:8} {what}" for name, (of, what) in _MODEL.items())
        print(f"usage:\n{verbs}\n\n{PROG} model import --help shows the options.")
        return
    verb, *rest = rest
    if verb not in _MODEL:
        raise ValueError(f"model {verb}: {nearest(verb, _MODEL)}")
    name, what = f"model {verb}", _MODEL[verb][1]
    if verb == "import":
        if (options := parse(ImportOptions, name, what, rest)) is not None:
            _import(options)
    elif verb == "show":
        if (options := parse(ShowOptions, name, what, rest)) is not None:
            print(table(_shape(options.what)))
    elif (options := parse(ExportOptions, name, what, rest)) is not None:
        _export(options)


def _import(options: ImportOptions) -> None:
    from drivefoundry import outputs
    from drivefoundry.model.checkpoint import save_checkpoint
    from drivefoundry.train.pretrain import imported

    outputs.check_folder(options.out)
    made = imported(options.what, action=options.action)
    save_checkpoint(options.out, made.model, made.codebook, made.tokenizer)
    print(table(made.config))
    print(f"{options.out}: its codebook is fitted when it is trained: {PROG} train --set train.backbone={options.out}")


def _export(options: ExportOptions) -> None:
    if options.hf is None and options.gguf is None:
        raise ValueError("model export: give --hf DIR or --gguf FILE, or both")
    from drivefoundry import outputs
    from drivefoundry.model.checkpoint import load_checkpoint
    from drivefoundry.model.exports import extract, save_gguf, save_hf

    if options.hf is not None:
        outputs.check_folder(options.hf)
    if options.gguf is not None:
        outputs.check_file(options.gguf)
    loaded = load_checkpoint(options.what)
    language = extract(loaded.model, loaded.tokenizer)
    if options.hf is not None:
        save_hf(options.hf, language)
        print(options.hf)
    if options.gguf is not None:
        save_gguf(options.gguf, language, options.form)
        print(options.gguf)


def _shape(what: str) -> ModelConfig:
    """A checkpoint directory or a size in, its shape out; the weights are not read."""
    from drivefoundry.model.config import ModelConfig
    from drivefoundry.model.presets import SIZES, preset

    if what in SIZES:
        return preset(what)
    told = Path(what) / "config.json"
    if not told.is_file() or not (told.parent / "codebook.npy").is_file():
        raise ValueError(f"{what}: neither a checkpoint directory nor one of the sizes {', '.join(SIZES)}")
    return ModelConfig.from_json(told.read_bytes(), told)


def table(config: ModelConfig) -> str:
    """A shape in; parameters by part, memory and sequence, as lines of text, out."""
    import torch

    from drivefoundry.model.presets import memory
    from drivefoundry.model.vla import VLA

    with torch.device("meta"):
        model = VLA(config)
    parts: Counter[str] = Counter()
    for name, p in model.named_parameters():
        first = name.partition(".")[0]
        parts[_PARTS.get(first, first)] += p.numel()
    c, m = config, memory(config)
    own = "" if c.text_shift else ", words of its own"
    about = {
        "eyes": f"{c.cameras} of {c.image[0]}x{c.image[1]} px, {c.frames} frames each, {c.vision}",
        "vocabulary": f"{c.vocab:,} rows: {c.text_vocab:,} words, {c.codes} codes, marks"
        f"{own}{'' if c.tied else '; a head of its own'}",
        "decoder": f"{c.layers} layers of {c.dim}, {c.heads} heads and {c.kv_heads} for keys, {c.ffn} between",
    }
    lines = [f"  {name:14}{n:>15,}  {about.get(name, '')}".rstrip() for name, n in parts.items()]
    longest = c.prefix + c.max_text + model.slots
    return "\n".join([
        f"{'parameters':16}{sum(parts.values()):>15,}  plans by {c.action}", *lines,
        f"{'sequence':16}{longest:>15,}  task 1, image {c.prefix - 3}, ego 1, route 1, text up to {c.max_text}, "
        f"plan {model.slots}",
        "memory",
        f"  {'weights':14}{_bytes(m.weights):>15}  bf16",
        f"  {'training':14}{_bytes(m.training):>15}  weights, gradients, masters and two moments",
        f"  {'activations':14}{_bytes(m.activations * longest):>15}  of the longest sample; "
        f"{_bytes(m.recomputed * longest)} where blocks are computed again",
        f"  {'cache':14}{_bytes(m.cache * longest):>15}  of the longest sample",
    ])  # fmt: skip


def _bytes(n: float) -> str:
    """Bytes in, three digits and a decimal unit out."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
