"""The same weights under `transformers`, llama.cpp and ggml's own dequantiser; needs the extra `interop`."""

import numpy as np
import pytest

from drivefoundry.model.gguf import _IDS, _KINDS

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


@pytest.mark.parametrize("name", list(_IDS))
def test_blocks_are_read_as_ggml_reads_them(name):
    gguf = pytest.importorskip("gguf")
    kind = _KINDS[_IDS[name]]
    raw = np.random.default_rng(0).integers(0, 120, (40, kind.bytes), dtype=np.uint8)  # small: no infinite scales
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(_IDS[name]))
    assert np.array_equal(kind.read(raw).astype(np.float32), wanted)
