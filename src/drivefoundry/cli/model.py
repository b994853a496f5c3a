"""`model import`, `model show` and `model export`: import a language model, describe a model, export its language
model."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates
from drivefoundry.cli.verbs import PROG, Outcome

if TYPE_CHECKING:
    from drivefoundry.model.config import ModelConfig

_PARTS = {"stem": "eyes", "ego_in": "ego and route", "ego_out": "ego and route", "route_in": "ego and route",
          "route_out": "ego and route", "embed": "vocabulary", "own_head": "vocabulary"}  # fmt: skip


@dataclass(frozen=True)
class ImportOptions(Creates):
    """What `model import` takes."""

    what: Annotated[tyro.conf.Positional[str], arg(metavar="BACKBONE")]
    """smollm2, a .gguf file, or a Hugging Face directory of the Llama or Qwen2 family."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("model")
    """Directory for the checkpoint; `run --set pretrain.backbone=DIR` trains it."""
    action: Literal["codes", "flow"] = "codes"
    """How plans leave the model: as codes of the vocabulary, or by flow matching."""


@dataclass(frozen=True)
class ShowOptions(Common):
    """What `model show` takes."""

    what: Annotated[tyro.conf.Positional[str], arg(metavar="MODEL")]
    """A run (its newest model), RUN:sft:TURN, a checkpoint directory, or a size: 0.1M to 72B."""


@dataclass(frozen=True)
class ExportOptions(Creates):
    """What `model export` takes."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="MODEL")]
    """A run (its newest model), RUN:sft:TURN, or a checkpoint directory."""
    hf: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Directory to write, in the format of transformers."""
    gguf: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """File to write, in the format of llama.cpp."""
    form: Literal["F32", "F16", "Q8_0"] = "F32"
    """Number format of the matrices in FILE."""


def imported(options: ImportOptions) -> Outcome:
    """`model import`: build a checkpoint around a language model."""
    from drivefoundry.model.backbones.load import backbone_path

    if options.dry_run:
        path = backbone_path(options.what)
        return Outcome(f"would build a model around {path} in {options.out}", {"would_write": options.out})
    from drivefoundry import outputs
    from drivefoundry.model.checkpoint import save_checkpoint
    from drivefoundry.train.pretrain import imported as built

    outputs.check_folder(options.out)
    made = built(options.what, action=options.action)
    save_checkpoint(options.out, made.model, made.codebook, made.tokenizer)
    use = f"{PROG} run --until train --set pretrain.backbone={options.out}"
    text = f"{table(made.config)}\n{options.out}: its codebook is fitted when it is trained: {use}"
    return Outcome(text, {"checkpoint": options.out, **sizes(made.config)})


def show(options: ShowOptions) -> Outcome:
    """`model show`: parameters by part, memory and sequence."""
    config = _shape(options.what)
    return Outcome(table(config), sizes(config))


def export(options: ExportOptions) -> Outcome:
    """`model export`: write the language model for transformers or llama.cpp."""
    files = [path for path in (options.hf, options.gguf) if path is not None]
    if not files:
        raise ValueError("model export: give --hf DIR or --gguf FILE, or both")
    from drivefoundry import outputs
    from drivefoundry.model.backbones.exports import extract, save_gguf, save_hf
    from drivefoundry.model.checkpoint import load_checkpoint
    from drivefoundry.runs import named

    if options.hf is not None:
        outputs.check_folder(options.hf)
    if options.gguf is not None:
        outputs.check_file(options.gguf, ".gguf")
    loaded = load_checkpoint(named.model(options.what))
    language = extract(loaded.model, loaded.tokenizer)
    if options.dry_run:
        return Outcome("\n".join(f"would write {path}" for path in files), {"would_write": files})
    if options.hf is not None:
        save_hf(options.hf, language)
    if options.gguf is not None:
        save_gguf(options.gguf, language, options.form)
    return Outcome("\n".join(map(str, files)), {"files": files})


def _shape(what: str) -> ModelConfig:
    """Configuration of a named model or size, without reading weights."""
    from drivefoundry.model.config import ModelConfig
    from drivefoundry.model.presets import SIZES, preset
    from drivefoundry.runs import named

    if what.upper() in SIZES:
        return preset(what.upper())
    if not Path(what).exists() and ":" not in what:
        raise ValueError(f"{what}: neither a model nor one of the sizes {', '.join(SIZES)}")
    path = named.model(what) / "config.json"
    return ModelConfig.from_json(path.read_bytes(), path)


def parts_of(config: ModelConfig) -> tuple[dict[str, int], int]:
    """Parameters by part, and tokens of a plan in the sequence."""
    import torch

    from drivefoundry.model.vla import VLA

    with torch.device("meta"):
        model = VLA(config)
    parts: Counter[str] = Counter()
    for name, p in model.named_parameters():
        first = name.partition(".")[0]
        parts[_PARTS.get(first, first)] += p.numel()
    return dict(parts), model.slots


def sizes(config: ModelConfig) -> dict[str, Any]:
    """The `--json` form of `table`; bytes of the entire model or of its longest sample."""
    from drivefoundry.model.presets import memory

    parts, slots = parts_of(config)
    longest, m = config.prefix + config.max_text + slots, memory(config)
    return {
        "parameters": sum(parts.values()), "parts": parts, "sequence": longest, "config": asdict(config),
        "memory": {
            "weights": m.weights, "training": m.training, "activations": m.activations * longest,
            "recomputed": m.recomputed * longest, "cache": m.cache * longest,
        },
    }  # fmt: skip


def table(config: ModelConfig) -> str:
    """Format parameters by part, memory and sequence of a configuration."""
    from drivefoundry.model.presets import memory

    parts, slots = parts_of(config)
    c, m = config, memory(config)
    own = "" if c.text_shift else ", words of its own"
    eyes = ", ".join(f"{name} {h}x{w} px" for name, (h, w) in c.cameras.items())
    about = {
        "eyes": f"{eyes}, {c.frames} frames each, {c.vision}",
        "vocabulary": f"{c.vocab:,} rows: {c.text_vocab:,} words, {c.codes} codes, marks"
        f"{own}{'' if c.tied else '; a separate head'}",
        "decoder": f"{c.layers} layers of {c.dim}, {c.heads} heads, {c.kv_heads} key-value heads, {c.ffn} in the MLP",
    }
    lines = [f"  {name:14}{n:>15,}  {about.get(name, '')}".rstrip() for name, n in parts.items()]
    longest = c.prefix + c.max_text + slots
    return "\n".join([
        f"{'parameters':16}{sum(parts.values()):>15,}  plans by {c.action}", *lines,
        f"{'sequence':16}{longest:>15,}  task 1, image {c.prefix - 3}, ego 1, route 1, text up to {c.max_text}, "
        f"plan {slots}",
        "memory",
        f"  {'weights':14}{_bytes(m.weights):>15}  bf16",
        f"  {'training':14}{_bytes(m.training):>15}  weights, gradients, master weights and two moments",
        f"  {'activations':14}{_bytes(m.activations * longest):>15}  of the longest sample; "
        f"{_bytes(m.recomputed * longest)} with activation checkpointing",
        f"  {'cache':14}{_bytes(m.cache * longest):>15}  of the longest sample",
    ])  # fmt: skip


def _bytes(n: float) -> str:
    """Format bytes with three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
