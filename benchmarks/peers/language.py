"""Logits and greedy tokens of given models under `transformers` and llama.cpp.

Needs the extra `interop`; llama.cpp comes as `xllamacpp`, whose server listens on the loopback address.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers  # pyright: ignore[reportMissingImports]
import xllamacpp  # pyright: ignore[reportMissingImports]


def random_model(folder: Path, family: str, words: int = 304) -> None:
    """Write a tiny "llama" (scaled positions, separate head) or "qwen2" (biases, tied) with random weights, without its
    tokenizer."""
    shape = {
        "vocab_size": words, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 16_384, "eos_token_id": 0,
        "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    if family == "llama":
        rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
        config = transformers.LlamaConfig(**shape, head_dim=32, rms_norm_eps=1e-5, rope_parameters=rope)
        model = transformers.LlamaForCausalLM(config)
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, tie_word_embeddings=True))
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=dice) * 0.15 + (1.0 if "norm" in name else 0.0))
    model.save_pretrained(folder)


def transformers_model(folder: Path) -> transformers.PreTrainedModel:
    """Load a model from a Hugging Face directory in fp32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def transformers_greedy(folder: Path, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The ids that follow each text, tokenised by the directory's own tokenizer."""
    model, tokenizer = transformers_model(folder), transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
        out.append(said[0, ids.shape[1] :].tolist())
    return out


def llama_cpp_greedy(path: Path, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The same for a GGUF file in llama.cpp, on one thread, with keys, values and attention in fp32."""
    given = xllamacpp.CommonParams()
    given.model.path, given.n_ctx, given.n_parallel, given.n_gpu_layers = str(path), 512, 1, 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    given.warmup, given.verbosity = False, 0
    server, out = xllamacpp.Server(given), []
    for text in texts:
        asked = {"prompt": text, "n_predict": limit, "temperature": 0, "return_tokens": True}
        body, head = json.dumps(asked).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}/completion", body, head)
        with urllib.request.urlopen(request) as answer:
            out.append(json.loads(answer.read())["tokens"])
    return out
