"""Export a VLA's language model, or any backbone, as a Hugging Face directory or a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from drivefoundry import outputs
from drivefoundry.model.backbones.load import GGUF, HF, Backbone, names
from drivefoundry.model.backbones.vocabulary import extended, to_gguf
from drivefoundry.model.blocks.decoder import rope_stretch
from drivefoundry.model.config import SPECIALS
from drivefoundry.model.gguf import Value, write_gguf
from drivefoundry.model.tensors import write_tensors
from drivefoundry.model.text import EOS, OWN, TextCodec
from drivefoundry.model.vla import VLA

MARKS = ("task", "think", "act", *(f"spare_{i}" for i in range(SPECIALS - 3)))


def extract(model: VLA, tokenizer: TextCodec, chat: str = "") -> Backbone:
    """Extract a VLA's language model. Its vocabulary is the tokenizer's, followed by the action codes `<|code_0|>` ...
    and the marks `<|task|>`, `<|think|>`, `<|act|>`, so that a plan is text, too."""
    c, state = model.config, model.state_dict()
    weights = {k: v.float() for k, v in state.items() if k.startswith("decoder.")}
    for name in ("embed",) if c.tied else ("embed", "own_head"):
        rows = state[name].float()[c.text_shift :].clone()
        rows[c.text_end if c.text_shift else EOS] = state[name][EOS]
        weights[name] = rows
    marks = [f"<|{m}|>" for m in (*(f"code_{i}" for i in range(c.codes)), *MARKS)]
    raw = extended(tokenizer.raw, c.text_vocab - c.text_shift, marks)
    end = c.text_end if c.text_shift else EOS
    config = replace(c, text_vocab=OWN + c.vocab - c.text_shift, text_shift=OWN, text_end=end)
    return Backbone(config, weights, raw, context=c.prefix + c.max_text + c.plan, chat=chat)


def _parts(backbone: Backbone, of: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor under its name in format `of`."""
    for ours, theirs in names(backbone.config, of).items():
        parts = backbone.weights[ours].detach().float().cpu().numpy()
        yield from zip(theirs, np.split(parts, len(theirs)), strict=True)


def save_hf(folder: Path, backbone: Backbone) -> None:
    """Write a directory that `transformers` loads: config.json, model.safetensors (fp32), tokenizer.json and
    tokenizer_config.json. Replaces an older export. ValueError, with nothing touched, if the folder holds any other
    files."""
    token = Tokenizer.from_str(backbone.tokenizer.decode()).id_to_token
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": token(backbone.end)}
    about |= {} if backbone.begin is None else {"bos_token": token(backbone.begin)}
    about |= {"chat_template": backbone.chat} if backbone.chat else {}
    with outputs.folder(folder, "config.json") as aside:
        write_tensors(aside / "model.safetensors", dict(_parts(backbone, HF)))
        (aside / "config.json").write_text(json.dumps(hf_config(backbone), indent=1))
        (aside / "tokenizer.json").write_bytes(backbone.tokenizer)
        (aside / "tokenizer_config.json").write_text(json.dumps(about, indent=1))


def hf_config(backbone: Backbone) -> dict:
    """The config.json of this Llama or Qwen2 model."""
    c = backbone.config
    rope: dict[str, object] = {"rope_theta": c.rope_theta, "rope_type": "default"}
    if c.rope_scaling is not None:
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        rope |= {"rope_type": "llama3", **dict(zip(keys, c.rope_scaling, strict=True))}
    return {
        "architectures": ["Qwen2ForCausalLM" if backbone.family == "qwen2" else "LlamaForCausalLM"],
        "model_type": backbone.family,
        "hidden_size": c.dim,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.ffn,
        "hidden_act": "silu",
        "vocab_size": c.text_vocab - c.text_shift,
        "max_position_embeddings": backbone.context,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": rope if c.rope_scaling is not None else None,
        "rope_parameters": rope,
        "tie_word_embeddings": c.tied,
        "bos_token_id": backbone.begin,
        "eos_token_id": backbone.end,
        "torch_dtype": "float32",
    }


def save_gguf(path: Path, backbone: Backbone, form: str = "F32") -> None:
    """Write a file that llama.cpp loads, with matrices as F32, F16 or Q8_0. ValueError unless the tokenizer is a
    byte-level BPE."""
    c, family = backbone.config, backbone.family
    shape: dict[str, Value] = {
        "block_count": c.layers,
        "context_length": backbone.context,
        "embedding_length": c.dim,
        "feed_forward_length": c.ffn,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.kv_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": c.norm_eps,
        "rope.freq_base": c.rope_theta,
        "rope.dimension_count": c.head_dim,
        "vocab_size": c.text_vocab - c.text_shift,
    }
    fields: dict[str, Value] = {"general.architecture": family, "general.name": "drivefoundry"}
    fields |= {f"{family}.{key}": value for key, value in shape.items()}
    fields |= to_gguf(backbone.tokenizer, c.text_vocab - c.text_shift)
    fields["tokenizer.ggml.eos_token_id"] = backbone.end
    if backbone.begin is not None:
        fields["tokenizer.ggml.bos_token_id"] = backbone.begin
    starts = Tokenizer.from_str(backbone.tokenizer.decode()).encode("a").ids[0]
    fields["tokenizer.ggml.add_bos_token"] = backbone.begin is not None and starts == backbone.begin
    if backbone.chat:
        fields["tokenizer.chat_template"] = backbone.chat
    tensors = {name: _interleaved(name, part, backbone) for name, part in _parts(backbone, GGUF)}
    if c.rope_scaling is not None:
        tensors["rope_freqs.weight"] = rope_stretch(c).numpy()
    write_gguf(path, fields, tensors, form)


def _interleaved(name: str, x: np.ndarray, backbone: Backbone) -> np.ndarray:
    """Reorder Llama's queries and keys as GGUF stores them: the two halves that a rotation mixes are interleaved."""
    heads = {"attn_q": backbone.config.heads, "attn_k": backbone.config.kv_heads}.get(name.split(".")[-2])
    if heads is None or backbone.family != "llama":
        return x
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
