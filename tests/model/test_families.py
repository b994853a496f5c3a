"""Every key of a model's files is used, matches the decoder, or is refused; no tensor is ignored."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivefoundry.model.backbones.exports import save_gguf, save_hf
from drivefoundry.model.backbones.load import backbone_path, load_backbone
from drivefoundry.model.gguf import read_gguf, write_gguf
from drivefoundry.model.tensors import read_tensors, write_tensors
from tinybackbone import SHAPE, WORDS, tiny_backbone

PLAIN = replace(SHAPE, rope_scaling=None)
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("saved")
    for name, config, cut in (
        ("llama", PLAIN, "llama-bpe"),
        ("qwen2", replace(PLAIN, qkv_bias=True, tied=True), "qwen2"),
    ):
        save_hf(out / name, tiny_backbone(config, cut))
        save_gguf(out / f"{name}.gguf", tiny_backbone(config, cut))
    return out


@pytest.fixture
def hf(saved, tmp_path):
    """A directory with changes to its config.json; a value of ... removes the key."""

    def made(changes: dict, family: str = "llama", **others: dict) -> Path:
        out = Path(shutil.copytree(saved / family, tmp_path / "hf", dirs_exist_ok=True))
        for name, new in {"config": changes, **others}.items():
            path = out / f"{name}.json"
            told = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({k: v for k, v in (told | new).items() if v is not ...}))
        return out

    return made


def without(told: dict, key: str) -> dict:
    return {k: v for k, v in told.items() if k != key}


NO_ROPE = {"rope_parameters": None, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({"rope_parameters": None, "rope_scaling": {"type": kind, "factor": 4.0}}, f"rope_type '{kind}'")
          for kind in ("linear", "dynamic", "yarn", "longrope", "su", "mrope")),
        *((NO_ROPE | {"rope_scaling": without(SCALED, key)}, rf"rope_scaling\.{key} is missing") for key in SCALED
          if key != "rope_type"),
        *((NO_ROPE | {"rope_scaling": SCALED | {"factor": value}}, r"rope_scaling\.factor is|factor must be >= 1")
          for value in ("8", 0, -1.0, 0.5, float("inf"), True)),
        (NO_ROPE | {"rope_scaling": SCALED | {"mrope_section": [1, 2]}}, r"rope_scaling\.mrope_section is \[1, 2\]"),
        (NO_ROPE | {"rope_scaling": {"factor": 4.0}}, r"rope_scaling\.factor is 4\.0, must be 1"),
        (NO_ROPE | {"rope_scaling": "yarn"}, "rope_scaling is 'yarn', must be a table"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0 and 10000.0; make them one"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"attention_bias": True}, "attention_bias is True"), ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"), ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0: unknown key"),
        ({"logits_scaling": 8.0}, "logits_scaling is 8.0"), ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"), ({"qk_norm": True}, "qk_norm is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"), ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"), ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"num_hidden_layers": 10**9}, "ModelConfig.layers"), ({"hidden_size": True}, "hidden_size is True"),
        ({"num_key_value_heads": 3}, "kv_heads: 3 does not divide"), ({"head_dim": 7}, "head_dim: must be even"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"tie_word_embeddings": True}, r"tensor lm_head\.weight belongs to no supported part"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings is x"),
        *(({"eos_token_id": value}, r"config\.json: eos_token_id is .*one of the tokenizer's 300 ids")
          for value in (10**6, 2**40, -1, 303, "0", True, [0, 400], 1.0)),
        ({"bos_token_id": 5000}, "bos_token_id is 5000"),
        *(({key: value}, f"{key} is {value!r}".replace("[]", r"\[\]"))
          for key in ("rms_norm_eps", "head_dim", "max_position_embeddings", "num_key_value_heads",
                      "tie_word_embeddings") for value in (0, [])),
        *((NO_ROPE | {"rope_theta": value}, f"rope_theta is {value!r}") for value in (0, 0.0, False, "")),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
        *((NO_ROPE | {"rope_scaling": value}, "rope_scaling is .*, must be a table") for value in ([], "", False, 0)),
        *(({key: value}, key) for key in ("architectures", "layer_types", "sliding_window") for value in ("", False)),
        *(({f"{kind}_token_id": []}, rf"{kind}_token_id is \[\]") for kind in ("eos", "bos")),
    ],
)  # fmt: skip
def test_a_directory_with_unsupported_keys_is_refused(changes, says, hf):
    with pytest.raises(ValueError, match=says) as refused:
        load_backbone(hf(changes))
    assert "\n" not in str(refused.value)
    assert "json" in str(refused.value) or "safetensors" in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 21, "attention_dropout": 0.0},
        {
            "layer_types": ["full_attention"] * 2,
            "pretraining_tp": 1,
            "transformers_version": "4.55.0",
            "use_mrope": False,
        },
        {"partial_rotary_factor": 1.0, "attention_bias": None, "hidden_act": "swish", "something_new": None},
        {
            "rope_parameters": None,
            "rope_scaling": {"type": "default"},
            "is_llama_config": True,
            "rope_interleaved": False,
        },
    ],
)
def test_keys_that_change_no_result_are_accepted(changes, hf, saved):
    want, got = load_backbone(saved / "llama"), load_backbone(hf(changes))
    assert got.config == want.config
    assert all(torch.equal(got.weights[k], want.weights[k]) for k in want.weights)


def test_the_end_mark_is_looked_for_where_it_is_kept(hf):
    mark = {"content": "a", "special": True}
    word = tiny_word("a")
    none = {"eos_token_id": ...}
    assert load_backbone(hf(none, generation_config={"eos_token_id": [7, 0]})).end == 7
    assert (
        load_backbone(hf(none, generation_config={"eos_token_id": ...}, tokenizer_config={"eos_token": mark})).end
        == word
    )
    assert load_backbone(hf({"eos_token_id": [9, 7]})).end == 9
    assert load_backbone(hf({"eos_token_id": None}, tokenizer_config={"eos_token": "<|end|>"})).end == 0
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: eos_token '<nowhere>' is not in tokenizer.json"):
        load_backbone(hf({"eos_token_id": None}, tokenizer_config={"eos_token": "<nowhere>"}))
    with pytest.raises(ValueError, match=r"config\.json: no eos_token_id, nor in generation_config"):
        load_backbone(hf({"eos_token_id": None}, tokenizer_config={"eos_token": ...}))


def tiny_word(text: str) -> int:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tiny_backbone(PLAIN).tokenizer.decode()).token_to_id(text)


def test_the_chat_template_is_looked_for_where_it_is_kept(hf):
    long = {"model_max_length": int(1e30)}  # as many tokenizers have it
    assert load_backbone(hf({}, tokenizer_config={"chat_template": "old", **long})).chat == "old"
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "one of several"}]
    out = hf({}, tokenizer_config={"chat_template": several})
    assert load_backbone(out).chat == "one of several"
    (out / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}")
    assert load_backbone(out).chat.startswith("{% for m")


@pytest.mark.parametrize(
    "held",
    [
        *([{"name": name, "template": "x"}] for name in ([], {}, None, 5)),
        ["x"],
        [{"name": "default", "template": 5}],
        0,
        False,
        {},
    ],
)
def test_a_chat_template_of_another_kind_is_refused(held, hf):
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template") as refused:
        load_backbone(hf({}, tokenizer_config={"chat_template": held}))
    assert "\n" not in str(refused.value)


def test_an_adapter_beside_the_model_is_refused(hf):
    with pytest.raises(ValueError, match=r"adapter_config\.json: adapters are not supported"):
        load_backbone(hf({}, adapter_config={"peft_type": "LORA"}))


def test_no_tensor_of_a_directory_is_passed_over(hf):
    out = hf({})
    path, held = out / "model.safetensors", read_tensors(out / "model.safetensors")
    for name in ("model.layers.0.self_attn.q_norm.weight", "model.layers.2.mlp.up_proj.weight", "score.weight",
                 "model.layers.0.self_attn.q_proj.bias"):  # fmt: skip
        write_tensors(path, held | {name: np.ones(4, np.float32)})
        with pytest.raises(ValueError, match=rf"{name} belongs to no supported part"):
            load_backbone(out)
    rate = (1e4 ** (-np.arange(0, 16, 2) / 16)).astype(np.float32)
    write_tensors(path, held | {"model.layers.0.self_attn.rotary_emb.inv_freq": rate})
    load_backbone(out)
    write_tensors(path, held | {"model.layers.0.self_attn.rotary_emb.inv_freq": rate / 4})
    with pytest.raises(ValueError, match="inv_freq belongs to no supported part"):
        load_backbone(out)


def test_a_tied_head_that_is_there_again_must_be_the_embeddings(hf):
    out = hf({}, "qwen2")
    path, held = out / "model.safetensors", read_tensors(out / "model.safetensors")
    write_tensors(path, held | {"lm_head.weight": held["model.embed_tokens.weight"]})
    load_backbone(out)
    write_tensors(path, held | {"lm_head.weight": held["model.embed_tokens.weight"] + 1})
    with pytest.raises(ValueError, match=r"lm_head\.weight belongs to no supported part"):
        load_backbone(out)


def test_an_index_and_its_files_hold_the_same_tensors(hf):
    out = hf({})
    path, held = out / "model.safetensors", read_tensors(out / "model.safetensors")
    names = list(held)
    write_tensors(out / "a.safetensors", {n: held[n] for n in names[:5]})
    write_tensors(out / "b.safetensors", {n: held[n] for n in names[5:]})
    index = {n: f"{'a' if i < 5 else 'b'}.safetensors" for i, n in enumerate(names)}
    for change, says in (
        ({}, r"model\.safetensors: not listed in model\.safetensors\.index\.json"),
        ({"../x": "a.safetensors"}, r"no tensor \.\./x in a\.safetensors"),
        ({names[0]: ...}, rf"a\.safetensors: tensor {names[0]} is not in"),
        ({names[0]: "../a.safetensors"}, "no weight_map from tensors to files"),
    ):
        told = {k: v for k, v in (index | change).items() if v is not ...}
        (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": told}))
        with pytest.raises(ValueError, match=says):
            load_backbone(out)
    path.unlink()
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    load_backbone(out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({"qwen2.rope.scaling.type": kind, "qwen2.rope.scaling.factor": 4.0}, "rope.scaling.type is")
          for kind in ("linear", "yarn", "longrope")),
        ({"qwen2.rope.scaling.factor": 4.0}, "rope.scaling.factor is 4.0"),
        ({"qwen2.rope.scale_linear": 2.0}, "scale_linear is"),
        ({"qwen2.attention.sliding_window": 512}, "sliding_window is 512"),
        ({"qwen2.expert_count": 8}, "expert_count is 8"),
        ({"qwen2.rope.dimension_count": 8}, "rope.dimension_count is 8, must be 16"),
        ({"qwen2.logit_scale": 0.5}, "logit_scale"),
        ({"qwen2.attention.value_length": 8}, "value_length is 8"),
        ({"qwen2.vocab_size": 7}, "vocab_size is 7, must be 304"),
        ({"qwen2.attention.layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is"),
        ({"qwen2.new_thing": 3}, "new_thing is 3"),
        ({"qwen2.attention.head_count_kv": [2, 2]}, r"head_count_kv is \[2, 2\]"),
        ({"qwen2.block_count": 2.5}, "block_count is"),
        ({"tokenizer.ggml.eos_token_id": ...}, "no tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": 304}, "eos_token_id must be < 304 tokens, got 304"),
        ({"tokenizer.ggml.bos_token_id": 9999}, "bos_token_id must be < .* got 9999"),
        ({"split.count": 3}, "split.count is 3"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"qwen2.context_length": 0}, "context_length must be > 0, got 0"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens is not a list of str"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "does not join known tokens"),
    ],
)  # fmt: skip
def test_a_gguf_file_with_unsupported_keys_is_refused(changes, says, saved, tmp_path):
    held = read_gguf(saved / "qwen2.gguf")
    fields = {k: v for k, v in (held.fields | changes).items() if v is not ...}
    write_gguf(tmp_path / "x.gguf", fields, held.tensors)
    with pytest.raises(ValueError, match=rf"x\.gguf: .*{says}"):
        load_backbone(tmp_path / "x.gguf")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_no_tensor_of_a_gguf_file_is_passed_over(family, saved, tmp_path):
    held = read_gguf(saved / f"{family}.gguf")
    for name in ("blk.0.attn_q_norm.weight", "blk.2.ffn_up.weight", "output.bias", "blk.1.attn_output.bias"):
        write_gguf(tmp_path / "x.gguf", held.fields, held.tensors | {name: np.ones(4, np.float32)})
        with pytest.raises(ValueError, match=rf"x\.gguf: tensor {name} belongs to no supported part"):
            load_backbone(tmp_path / "x.gguf")
    unscaled = {f"{family}.rope.scaling.type": "none", f"{family}.rope.scaling.factor": 1.0, "split.count": 1}
    write_gguf(tmp_path / "x.gguf", held.fields | unscaled, held.tensors)
    assert load_backbone(tmp_path / "x.gguf").config.text_vocab == WORDS + 3


def test_a_name_too_long_for_a_file_is_no_backbone():
    with pytest.raises(ValueError, match="999: no such backbone"):
        backbone_path("9" * 5000)
