"""Backbones: both formats keep every weight; a VLA is built around one, and exports it unchanged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from drivefoundry.model.backbones.exports import extract, save_gguf, save_hf
from drivefoundry.model.backbones.load import Backbone, adopt, load_backbone
from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.model.gguf import read_gguf, write_gguf
from drivefoundry.model.tensors import read_tensors, write_tensors
from drivefoundry.model.text import EOS, OWN
from drivefoundry_car.vehicle.codec import fit_codebook
from tinybackbone import SAYINGS, SHAPE, WORDS, tiny_backbone

LLAMA = tiny_backbone()
QWEN = tiny_backbone(replace(SHAPE, qkv_bias=True, tied=True, rope_scaling=None, rope_theta=1e6), "qwen2")


def same(a: Backbone, b: Backbone) -> bool:
    return a.config == b.config and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)


def words_only(b: Backbone) -> Backbone:
    """Only the parts of the shape that a language model's file can contain."""
    of = ("dim", "layers", "heads", "kv_heads", "head_dim", "ffn", "qkv_bias", "tied", "norm_eps", "text_vocab",
          "text_shift", "text_end", "rope_theta", "rope_scaling")  # fmt: skip
    return replace(b, config=type(b.config)(**{k: getattr(b.config, k) for k in of}))


@pytest.mark.parametrize("backbone", [LLAMA, QWEN], ids=["llama", "qwen2"])
def test_both_formats_keep_every_weight_and_word(backbone, tmp_path):
    save_hf(tmp_path / "hf", backbone)
    save_gguf(tmp_path / "model.gguf", backbone)
    said = [Tokenizer.from_str(backbone.tokenizer.decode()).encode(s).ids for s in [*SAYINGS, "  x_1\n\n 2024 ''s"]]
    for where in ("hf", "model.gguf"):
        got = load_backbone(tmp_path / where)
        assert same(got, words_only(backbone))
        assert [
            Tokenizer.from_str(got.tokenizer.decode()).encode(s).ids for s in [*SAYINGS, "  x_1\n\n 2024 ''s"]
        ] == said
        assert got.context == 512
    assert not list(tmp_path.glob("*.part"))


def test_sharded_and_half_precision_directories_load(tmp_path):
    save_hf(tmp_path, LLAMA)
    whole = read_tensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    half = len(whole) // 2
    for part, names in (("a", list(whole)[:half]), ("b", list(whole)[half:])):
        write_tensors(tmp_path / f"{part}.safetensors", {n: whole[n] for n in names})
    index = {n: f"{'a' if i < half else 'b'}.safetensors" for i, n in enumerate(whole)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(load_backbone(tmp_path), words_only(LLAMA))


@pytest.mark.parametrize(("form", "off"), [("F16", 3e-3), ("Q8_0", 6e-2)])
def test_smaller_gguf_files_lose_little(form, off, tmp_path):
    config = replace(SHAPE, dim=64, ffn=96)
    backbone = tiny_backbone(config)
    for name in ("F32", form):
        save_gguf(tmp_path / name, backbone, name)
    got, ids = load_backbone(tmp_path / form), torch.arange(40)[None]
    want = backbone.language()(ids)
    assert (got.language()(ids) - want).norm() < off * want.norm()
    assert (tmp_path / form).stat().st_size < 0.6 * (tmp_path / "F32").stat().st_size


def test_refusals_name_the_file_and_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such backbone"):
        load_backbone(tmp_path / "nowhere")
    hf, gguf = tmp_path / "hf", tmp_path / "model.gguf"
    save_hf(hf, LLAMA)
    told = json.loads((hf / "config.json").read_text())
    for change, message in (
        ({"model_type": "mamba"}, r"config\.json: model_type 'mamba'; must be 'llama' or 'qwen2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"intermediate_size": 96}, r"gate_proj\.weight must have shape \(96, 48\), got \(64, 48\)"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2"),
    ):
        (hf / "config.json").write_text(json.dumps(told | change))
        with pytest.raises(ValueError, match=message):
            load_backbone(hf)
    (hf / "config.json").write_text(json.dumps(told | {"vocab_size": 299}))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight must have shape \(299, 48\), got \(304, 48\)"):
        load_backbone(hf)
    (hf / "config.json").write_text(json.dumps(told))
    weights, tensors = hf / "model.safetensors", read_tensors(hf / "model.safetensors")
    few = {k: v[:299] if "embed" in k or "lm_head" in k else v for k, v in tensors.items()}
    write_tensors(weights, few)
    (hf / "config.json").write_text(json.dumps(told | {"vocab_size": 299}))
    with pytest.raises(ValueError, match="the tokenizer has 300 ids, the embedding 299 rows"):
        load_backbone(hf)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: not an intact"):
        load_backbone(hf)
    (hf / "model.safetensors.index.json").write_text('{"weight_map": {"model.embed_tokens.weight": "x.safetensors"}}')
    with pytest.raises(ValueError, match=r"x\.safetensors: no such file"):
        load_backbone(hf)
    (hf / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: no model"):
        load_backbone(hf)
    (hf / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        load_backbone(hf)
    (hf / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json; not a Hugging Face model directory"):
        load_backbone(hf)
    save_gguf(gguf, LLAMA)
    held = read_gguf(gguf)
    for fields, tensors, message in (
        (held.fields | {"general.architecture": "rwkv7"}, held.tensors, "architecture 'rwkv7'"),
        (held.fields | {"tokenizer.ggml.model": "llama"}, held.tensors, "must be a byte-level BPE"),
        (held.fields | {"tokenizer.ggml.pre": "falcon"}, held.tensors, "pre 'falcon'; known are"),
        (held.fields, {k: v for k, v in held.tensors.items() if k != "blk.1.ffn_up.weight"}, "no tensor blk.1.ffn_up"),
        (held.fields, held.tensors | {"rope_freqs.weight": np.full(8, 3.0)}, "rope_freqs.weight is not Llama 3's"),
    ):
        write_gguf(gguf, fields, tensors)
        with pytest.raises(ValueError, match=message):
            load_backbone(gguf)


@pytest.mark.parametrize("backbone", [LLAMA, QWEN], ids=["llama", "qwen2"])
def test_a_vla_around_a_backbone_speaks_and_drives(backbone, tmp_path):
    model, codec = adopt(backbone, image=(32, 48), max_text=12, codes=32)
    rng = np.random.default_rng(0)
    frames = {"front": torch.from_numpy(rng.integers(0, 256, (2, 2, 32, 48, 3), dtype=np.uint8))}
    ego, route = torch.ones(2, 4, 3), torch.ones(2, 12)
    text = torch.from_numpy(codec.encode(SAYINGS[:2], 12))
    logits = model(frames, ego, route, text, model.act(frames, ego, route)[:, 0])
    assert logits.text is not None
    assert logits.text.shape == (2, 12, OWN + WORDS)
    assert codec.decode(codec.encode(SAYINGS, 60)) == SAYINGS
    book = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), 32)
    save_checkpoint(tmp_path / "checkpoint", model, book, codec)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(loaded.model(frames, ego, route, text, torch.zeros(2, 8, dtype=torch.long)).action,
                       model(frames, ego, route, text, torch.zeros(2, 8, dtype=torch.long)).action)  # fmt: skip
    assert loaded.tokenizer.decode(codec.encode(SAYINGS, 60)) == SAYINGS


def test_what_leaves_a_vla_is_the_backbone_with_actions_behind(tmp_path):
    model, codec = adopt(LLAMA, image=(32, 48), codes=32)
    ids = torch.tensor([[5, 80, 290, 3]])
    out = extract(model, codec)
    logits = out.language()(ids)
    assert torch.allclose(logits[..., :WORDS], LLAMA.language()(ids), atol=1e-5)
    assert logits.shape[-1] == WORDS + model.config.codes + 8
    with torch.no_grad():
        model.embed[EOS] += 1.0
    assert torch.equal(extract(model, codec).weights["embed"][LLAMA.end], model.embed[EOS])
    save_gguf(tmp_path / "vla.gguf", out)
    save_hf(tmp_path / "vla", out)
    for where in ("vla.gguf", "vla"):
        got = load_backbone(tmp_path / where)
        assert torch.equal(got.language()(ids), logits)
        token = Tokenizer.from_str(got.tokenizer.decode()).token_to_id
        assert token("<|code_7|>") == WORDS + 7
        assert token("<|act|>") == WORDS + model.config.codes + 2
