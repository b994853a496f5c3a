"""Derive the decoder's shape from config.json or the GGUF metadata of a Llama or Qwen2 model.

No key is silently ignored: each one is used, or must have the one value that the decoder supports, or is known not to
affect the computation. A file with any other key is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivefoundry.model.blocks.decoder import rope_stretch
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.gguf import Gguf
from drivefoundry.model.text import OWN
from drivefoundry.types import require

FAMILIES = ("llama", "qwen2")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
LLAMA3_CONTEXT = (1.0, 4.0, 8192)
"""Low and high frequency factor and original context of every public Llama 3 with scaled positions."""
_READ = {
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "layer_types", "tie_word_embeddings", "bos_token_id", "eos_token_id", "max_position_embeddings",
    "sliding_window",
}  # fmt: skip
_ONE_VALUE: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,), "mlp_bias": (False,), "hidden_act": ("silu", "swish"), "use_sliding_window":
    (False,), "partial_rotary_factor": (1,), "rope_interleaved": (False,), "use_mrope": (False,), "use_qk_norm":
    (False,), "qk_norm": (False,), "logit_scale": (1,), "logits_scaling": (1,), "embedding_multiplier": (1,),
    "residual_multiplier": (1,), "num_local_experts": (0,), "num_experts": (0,), "is_encoder_decoder": (False,),
    "add_cross_attention": (False,), "tie_encoder_decoder": (False,), "alibi": (False,), "parallel_attn": (False,),
    "use_parallel_residual": (False,), "no_bias": (True,), "pruned_heads": ({},),
}  # fmt: skip
"""Values that, like a missing key, change nothing."""
_APART = {
    "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_range", "pad_token_id",
    "_name_or_path", "name_or_path", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop",
    "attn_pdrop", "pretraining_tp", "max_window_layers", "is_llama_config", "unsloth_version", "unsloth_fixed",
    "transformers.js_config", "output_attentions", "output_hidden_states", "return_dict", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "is_decoder", "cross_attention_hidden_size",
    "finetuning_task", "id2label", "label2id", "problem_type", "tokenizer_class", "prefix", "sep_token_id",
    "decoder_start_token_id", "task_specific_params", "max_length", "min_length", "do_sample", "early_stopping",
    "num_beams", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "begin_suppress_tokens", "exponential_decay_length_penalty", "suppress_tokens",
    "num_beam_groups", "diversity_penalty", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset", "model_max_length", "original_max_position_embeddings",
}  # fmt: skip
"""Keys for training, generation and bookkeeping, which do not affect the computation."""
_GGUF_READ = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
    "attention.key_length", "attention.value_length", "vocab_size",
}  # fmt: skip
_GGUF_ONE_VALUE: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",), "rope.scaling.factor": (0, 1), "rope.scale_linear": (0, 1),
    "rope.scaling.attn_factor": (1,), "rope.scaling.finetuned": (False,), "attention.sliding_window": (0,),
    "expert_count": (0,), "expert_used_count": (0,), "logit_scale": (0, 1), "attention.causal": (True,),
    "use_parallel_residual": (False,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,),
    "attention.scale": (0,), "pooling_type": (0,), "tensor_data_layout": ("Meta AI original pth",),
}  # fmt: skip


def hf_shape(path: Path, fields: Mapping[str, Any], end: int) -> ModelConfig:
    """Shape of a model from its config.json; end: id of its end mark. ValueError names the file and the key."""
    kind = fields.get("model_type")
    require(kind in FAMILIES, f"{path}: model_type {kind!r}; must be 'llama' or 'qwen2'")
    for key, value in fields.items():
        if value is None or key in _READ or key in _APART:
            continue
        require(key in _ONE_VALUE, f"{path}: {key} is {_short(value)}: unknown key; remove it if it changes no result")
        _require_one(path, key, value, _ONE_VALUE[key])
    made = value_or(fields, "architectures", [])
    fits = isinstance(made, list) and all(a in ("LlamaForCausalLM", "Qwen2ForCausalLM") for a in made)
    require(fits, f"{path}: architectures is {_short(made)}; must be a language model (ForCausalLM)")
    layers = value_or(fields, "layer_types", [])
    fits = isinstance(layers, list) and all(layer == "full_attention" for layer in layers)
    require(fits, f"{path}: layer_types: must be 'full_attention' in each layer")
    window = value_or(fields, "sliding_window", 0)
    windowed = (type(window) is not int or window != 0) and fields.get("use_sliding_window") is not False
    require(
        not windowed,
        f"{path}: sliding_window is {_short(window)}; must be full attention",
    )
    required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    dim, depth, heads, ffn, vocab = (_whole(path, key, fields.get(key)) for key in required)
    kv = _whole(path, "num_key_value_heads", value_or(fields, "num_key_value_heads", heads))
    head_dim = _whole(path, "head_dim", value_or(fields, "head_dim", dim // heads))
    tied = value_or(fields, "tie_word_embeddings", False)
    require(isinstance(tied, bool), f"{path}: tie_word_embeddings is {_short(tied)}, must be true or false")
    theta, scaling = _rope(path, fields)
    return _valid(
        path, dim=dim, layers=depth, heads=heads, kv_heads=kv, head_dim=head_dim, ffn=ffn, qkv_bias=kind == "qwen2",
        tied=tied, norm_eps=_number(path, "rms_norm_eps", value_or(fields, "rms_norm_eps", 1e-6)), rope_theta=theta,
        rope_scaling=scaling, text_vocab=OWN + vocab, text_shift=OWN, text_end=end,
    )  # fmt: skip


def _rope(path: Path, fields: Mapping[str, Any]) -> tuple[float, tuple[float, float, float, int] | None]:
    """Base and scaling of rotary positions, which config.json stores in an old or a new place."""
    rope: dict[str, Any] = {}
    for place in ("rope_scaling", "rope_parameters"):
        held = value_or(fields, place, {})
        require(isinstance(held, dict), f"{path}: {place} is {_short(held)}, must be a table")
        for kind in (held.get("rope_type"), held.get("type")):
            known = kind in (None, "default", "llama3")
            require(known, f"{path}: rope_type {_short(kind)}; must be 'default' or 'llama3'")
        for key, value in held.items():
            key = "rope_type" if key == "type" else key
            same = rope.get(key) in (None, value)
            require(
                same, f"{path}: {place}.{key} is {_short(value)} here and {_short(rope.get(key))} there; make them one"
            )
            rope[key] = value
    theta = rope.pop("rope_theta", None)
    own = value_or(fields, "rope_theta", theta)
    require(theta is None or own == theta, f"{path}: rope_theta is {_short(own)} and {_short(theta)}; make them one")
    kind = rope.pop("rope_type", None)
    kind = "default" if kind is None else kind
    for key, value in rope.items():
        if key not in LLAMA3 or kind == "default":
            alone = {"partial_rotary_factor": (1,), "attention_factor": (1,), "factor": (1,)}
            known = value is None or key in alone or key == "original_max_position_embeddings"
            require(known, f"{path}: rope_scaling.{key} is {_short(value)}: unknown key")
            if value is not None and key in alone:
                _require_one(path, f"rope_scaling.{key}", value, alone[key])
    base = _number(path, "rope_theta", 1e4 if own is None else own)
    if kind == "default":
        return base, None
    for key in LLAMA3:
        require(rope.get(key) is not None, f"{path}: rope_scaling.{key} is missing; rope_type 'llama3' needs it")
    factor, low, high = (_number(path, f"rope_scaling.{key}", rope[key]) for key in LLAMA3[:3])
    context = _whole(path, f"rope_scaling.{LLAMA3[3]}", rope[LLAMA3[3]])
    fits = factor >= 1 and low < high
    require(fits, f"{path}: rope_scaling: factor must be >= 1 and low_freq_factor below high_freq_factor")
    return base, (factor, low, high, context)


def gguf_shape(path: Path, held: Gguf) -> ModelConfig:
    """Shape of a model from its GGUF metadata. ValueError names the file and the key."""
    fields, family = held.fields, held.fields.get("general.architecture")
    require(family in FAMILIES, f"{path}: architecture {family!r}; must be 'llama' or 'qwen2'")
    for key, required in (("general.type", ("model",)), ("split.count", (0, 1))):
        if key in fields:
            _require_one(path, key, fields[key], required)
    for name, value in fields.items():
        prefix, _, key = name.partition(".")
        if prefix == family and key not in _GGUF_READ:
            unscaled = key.startswith("rope.scaling.") and fields.get(f"{family}.rope.scaling.type", "none") == "none"
            known = key in _GGUF_ONE_VALUE or (unscaled and key == "rope.scaling.original_context_length")
            require(known, f"{path}: {name} is {_short(value)}: unknown key")
            if key in _GGUF_ONE_VALUE:
                _require_one(path, name, value, _GGUF_ONE_VALUE[key])

    def field(key: str, default: Any = None) -> Any:
        return fields.get(f"{family}.{key}", default)

    def whole(key: str, default: int | None = None) -> int:
        return _whole(path, f"{family}.{key}", field(key, default))

    require("token_embd.weight" in held.tensors, f"{path}: no tensor token_embd.weight")
    rows, ends = len(held.tensors["token_embd.weight"]), fields.get("tokenizer.ggml.eos_token_id")
    require(type(ends) is int, f"{path}: no tokenizer.ggml.eos_token_id; the file must name the end mark")
    assert isinstance(ends, int)
    dim, heads = whole("embedding_length"), whole("attention.head_count")
    head_dim = whole("attention.key_length", dim // heads)
    for key, required in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("vocab_size", rows),
    ):
        require(
            whole(key, required) == required, f"{path}: {family}.{key} is {whole(key, required)}, must be {required}"
        )
    eps = _number(path, f"{family}.attention.layer_norm_rms_epsilon", field("attention.layer_norm_rms_epsilon"))
    shape: dict[str, Any] = dict(
        dim=dim, layers=whole("block_count"), heads=heads, kv_heads=whole("attention.head_count_kv", heads),
        head_dim=head_dim, ffn=whole("feed_forward_length"), qkv_bias=family == "qwen2",
        tied="output.weight" not in held.tensors, norm_eps=float(np.float32(eps).astype(str)),
        rope_theta=_number(path, f"{family}.rope.freq_base", field("rope.freq_base", 1e4)),
        text_vocab=OWN + rows, text_shift=OWN, text_end=ends,
    )  # fmt: skip
    stretch = held.tensors.get("rope_freqs.weight")
    if stretch is None:
        return _valid(path, **shape)
    config = _valid(path, **shape, rope_scaling=(float(stretch.max(initial=1.0)), *LLAMA3_CONTEXT))
    required = rope_stretch(config).numpy()
    known = stretch.shape == required.shape and np.allclose(required, stretch, rtol=1e-4)
    require(known, f"{path}: rope_freqs.weight is not Llama 3's; read the model from a Hugging Face directory")
    return config


def redundant(config: ModelConfig, name: str, value: np.ndarray, embed: torch.Tensor) -> bool:
    """Whether a tensor that the decoder does not read repeats known values: the rotary frequencies that old Llamas were
    saved with, or the embeddings as the head of a model with tied embeddings."""
    if name.endswith("rotary_emb.inv_freq"):
        rate = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim) / rope_stretch(config).numpy()
        return value.shape == rate.shape and np.allclose(value, rate, rtol=1e-2)
    return name == "lm_head.weight" and config.tied and np.array_equal(value, embed.numpy())


def value_or(fields: Mapping[str, Any], key: str, default: Any) -> Any:
    """A key's value; the default if it is absent or null, but not for 0, false or ""."""
    value = fields.get(key)
    return default if value is None else value


def _valid(path: Path, **shape: Any) -> ModelConfig:
    try:
        return ModelConfig(**shape).validate()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _require_one(path: Path, key: str, value: Any, required: tuple[Any, ...]) -> None:
    plain = not isinstance(value, bool) or any(isinstance(w, bool) for w in required)
    fits = plain and value in required
    require(fits, f"{path}: {key} is {_short(value)}, must be {required[-1]!r}: the decoder supports nothing else")


def _whole(path: Path, key: str, value: Any) -> int:
    require(value is not None, f"{path}: no {key}")
    require(type(value) is int and value > 0, f"{path}: {key} is {_short(value)}, must be an integer > 0")
    assert isinstance(value, int)
    return value


def _number(path: Path, key: str, value: Any) -> float:
    require(value is not None, f"{path}: no {key}")
    fits = type(value) in (int, float) and math.isfinite(value) and value > 0
    require(fits, f"{path}: {key} is {_short(value)}, must be a number > 0")
    return float(value)


def _short(value: Any) -> str:
    return repr(value)[:60]
