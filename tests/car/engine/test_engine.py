import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA, CodebookVote
from drivefoundry.quantize.export import export_engine
from drivefoundry_car.engine import Engine, files, kernels
from drivefoundry_car.update.selftest import self_test
from drivefoundry_car.vehicle.codec import fit_codebook, integrate_controls
from drivefoundry_car.vehicle.embodiment import CAR
from student import TEXTS, TINY, part, samples

FRAMES, EGO, ROUTE, _ = samples(48, seed=7)


def tensors(frames, ego, route):
    return {name: torch.from_numpy(f) for name, f in frames.items()}, torch.from_numpy(ego), torch.from_numpy(route)


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("engine")
    export_engine(student, out, *samples(64, seed=3)[:3], self_test=4)
    return out


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_plans_are_the_float_student_s(student, folder):
    loaded = load_checkpoint(student)
    points, tokens = Engine(folder).plan(FRAMES, EGO, ROUTE)
    inputs = tensors(FRAMES, EGO, ROUTE)
    want, controls = (x.numpy() for x in loaded.model.plan(*inputs, CodebookVote.of(loaded.codebook)))
    assert (tokens == want).mean() > 0.93
    assert len(np.unique(want, axis=0)) > 8, "a student that says one thing only proves nothing"
    assert points.dtype == np.float32
    same = (tokens == want).all(1)
    assert np.abs(points - integrate_controls(controls, EGO[:, -1, 0]))[same].max() < 0.3


def test_reasoning_is_the_float_student_s(student, folder):
    loaded = load_checkpoint(student)
    cache = loaded.model.start(*tensors(FRAMES, EGO, ROUTE), TINY.max_text)
    want = loaded.tokenizer.decode(loaded.model.generate_text(cache).numpy())
    got = Engine(folder).reason(FRAMES, EGO, ROUTE)
    assert sum(a == b for a, b in zip(got, want, strict=True)) >= 44
    assert len(set(want) & set(TEXTS)) > 1


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(dim=48, layers=1, heads=3, kv_heads=3, head_dim=16, ffn=80, image=(16, 48), stem=16,
                    text_vocab=130),
        ModelConfig(dim=64, layers=3, heads=5, kv_heads=1, head_dim=32, ffn=64, image=(24, 40), patch=8, stem=20,
                    text_vocab=130, codes=48, max_text=20, bidirectional=False, rope_theta=500.0, ego_changes=True),
        ModelConfig(dim=48, layers=1, heads=3, kv_heads=3, head_dim=16, ffn=80, image=(16, 48), stem=16,
                    text_vocab=130, others=(("left", 32, 16), ("rear", 16, 64))),
    ],
)  # fmt: skip
def test_any_shape_runs_like_the_float_model(config, tmp_path):
    torch.manual_seed(1)
    model = VLA(config.validate()).eval()
    model.embed.data *= 0.3  # so that the answer depends on the prefix and not on the last token alone
    rng = np.random.default_rng(0)
    frames = {}
    for name, (high, wide) in config.cameras.items():
        cells = rng.integers(0, 256, (40, 2, high // 8, wide // 8, 3), np.uint8)
        frames[name] = np.repeat(np.repeat(cells, 8, 2), 8, 3)
    ego, route = (rng.normal(0, *s).astype(np.float32) for s in ((3, (40, 4, 3)), (1, (40, 12))))
    tokenizer = TextCodec(train_tokenizer(TEXTS, config.text_vocab))
    codebook = fit_codebook(np.zeros((0, 8, 3)), np.zeros(0), config.codes)
    cameras = (replace(CAR.cameras[0].scaled(wide, high), name=n) for n, (high, wide) in config.cameras.items())
    save_checkpoint(tmp_path / "c", model, codebook, tokenizer, replace(CAR, cameras=tuple(cameras)))
    export_engine(tmp_path / "c", tmp_path / "e", frames, ego, route)
    rolling = ego.copy()
    rolling[:, -1, 0] = np.abs(rolling[:, -1, 0]) + 1  # at a stand all codes are one
    inputs = tensors(frames, ego, route)
    moved = (inputs[0], torch.from_numpy(rolling), inputs[2])
    want, engine = model.plan(*moved, CodebookVote.of(codebook))[0].numpy(), Engine(tmp_path / "e")
    assert len(np.unique(want, axis=0)) > 4
    assert (engine.plan(frames, rolling, route)[1] == want).mean() > 0.85
    texts = tokenizer.decode(model.generate_text(model.start(*inputs, config.max_text)).numpy())
    # a model that knows nothing babbles: one close call and the rest of the text is another
    same = [a[:6] == b[:6] for a, b in zip(engine.reason(frames, ego, route), texts, strict=True)]
    assert np.mean(same) > 0.7


def test_a_scene_alone_is_the_same_as_in_a_batch(folder):
    engine = Engine(folder)
    points, tokens = engine.plan(FRAMES, EGO, ROUTE)
    texts = engine.reason(FRAMES, EGO, ROUTE)
    for i in range(0, 48, 5):
        row = slice(i, i + 1)
        one = engine.plan(part(FRAMES, row), EGO[row], ROUTE[row])
        assert np.array_equal(one[0][0], points[i])
        assert np.array_equal(one[1][0], tokens[i])
        assert engine.reason(part(FRAMES, row), EGO[row], ROUTE[row]) == [texts[i]]


def available(name: str) -> bool:
    try:
        kernels.Kernels(dict.fromkeys(kernels.SHAPE, 16), [(16, 16)], name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "plain"])
def test_neither_threads_nor_instructions_change_an_answer(folder, instructions):
    if not available(instructions):
        pytest.skip(f"this CPU has no {instructions}")
    want = Engine(folder, threads=1).plan(FRAMES, EGO, ROUTE)[1]
    for threads in (1, 3):
        engine = Engine(folder, threads, instructions)
        assert np.array_equal(engine.plan(FRAMES, EGO, ROUTE)[1], want)
        assert engine.reason(part(FRAMES, slice(9)), EGO[:9], ROUTE[:9]) == Engine(folder).reason(
            part(FRAMES, slice(9)), EGO[:9], ROUTE[:9]
        )


def test_unknown_instructions_are_refused(folder):
    with pytest.raises(ValueError, match="avx9000"):
        Engine(folder, instructions="avx9000")


def test_no_scenes_give_no_plans(folder):
    points, tokens = Engine(folder).plan(part(FRAMES, slice(0)), EGO[:0], ROUTE[:0])
    assert points.shape == (0, 8, 3)
    assert tokens.shape == (0, 8)


def test_any_layout_and_float_type_of_the_inputs(folder):
    engine = Engine(folder)
    want = engine.plan(part(FRAMES, slice(0, None, 2)), EGO[::2], ROUTE[::2])[1]
    turned = (
        {"front": np.asfortranarray(FRAMES["front"][::2])},
        EGO[::2].astype(np.float64),
        np.asfortranarray(ROUTE[::2]),
    )
    assert np.array_equal(engine.plan(*turned)[1], want)


@pytest.mark.parametrize(
    ("field", "frames", "ego", "route"),
    [
        ("frames", FRAMES["front"], EGO, ROUTE),
        ("engine input frames: cameras must be front, got rear", {"rear": FRAMES["front"]}, EGO, ROUTE),
        ("got front, rear", FRAMES | {"rear": FRAMES["front"]}, EGO, ROUTE),
        (r"frames\['front'\]", {"front": FRAMES["front"][:, :1]}, EGO, ROUTE),
        (r"frames\['front'\]: float32", {"front": FRAMES["front"].astype(np.float32)}, EGO, ROUTE),
        ("ego", FRAMES, EGO[:-1], ROUTE),
        ("ego", FRAMES, EGO[:, -1], ROUTE),
        ("route", FRAMES, EGO, ROUTE[:, :-1]),
        ("finite", FRAMES, np.full_like(EGO, np.nan), ROUTE),
    ],
)
def test_wrong_inputs_are_refused(folder, field, frames, ego, route):
    with pytest.raises(ValueError, match=field):
        Engine(folder).plan(frames, ego, route)


@pytest.mark.parametrize("name", ["engine.json", "weights.bin", "codebook.safetensors", "selftest.safetensors"])
@pytest.mark.parametrize("how", ["missing", "truncated", "one bit"])
def test_a_damaged_file_is_refused_by_name(copy, name, how):
    raw = bytearray((copy / name).read_bytes())
    (copy / name).unlink()
    if how == "truncated":
        (copy / name).write_bytes(raw[: len(raw) // 2])
    elif how == "one bit":
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
    with pytest.raises(ValueError, match=name) as refused:
        Engine(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[]", '{"model": {}}', '{"format": 99}'])
def test_a_foreign_contract_is_refused(copy, text):
    (copy / "engine.json").write_text(text)
    with pytest.raises(ValueError, match=r"engine\.json"):
        Engine(copy)


def test_no_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"engine\.json"):
        Engine(tmp_path / "none")


def test_the_self_test_that_it_carries_passes(folder):
    self_test(folder)


TOKENIZER = TextCodec(train_tokenizer(TEXTS, 150))


@given(st.lists(st.integers(0, 159), max_size=12))
def test_text_is_written_as_the_tokenizer_would(folder_of_text, ids):
    row = np.array(ids, np.int64)
    known = np.array([i for i in ids if i < len(TOKENIZER)], np.int64)
    assert folder_of_text.text(row) == TOKENIZER.decode(known[None])[0]


@pytest.fixture(scope="module")
def folder_of_text(folder) -> Engine:
    engine = Engine(folder)
    engine._pieces = TOKENIZER.pieces()
    return engine


def test_it_needs_neither_torch_nor_the_tokenizer(folder):
    code = (
        "import sys; sys.modules.update(torch=None, tokenizers=None, drivefoundry=None); import numpy as np;"
        "from drivefoundry_car.engine import Engine; e = Engine(sys.argv[1]);"
        "i = ({'front': np.zeros((2, 2, 32, 48, 3), np.uint8)}, np.zeros((2, 4, 3)), np.zeros((2, 12)));"
        "print(e.plan(*i)[0].shape, len(e.reason(*i)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(2, 8, 3) 2"


def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    for name in ("_kernels.so", "kernels.cpp", "forward.h"):
        shutil.copy(kernels.HERE / name, tmp_path)
    (tmp_path / "kernels.cpp").write_text("// another\n")
    monkeypatch.setattr(kernels, "HERE", tmp_path)
    with pytest.raises(ImportError, match="pip install -e car"):
        kernels.library.__wrapped__()


def test_the_largest_activation_fits_its_sum():
    w = np.array([[127] * 4000, [-3] * 4000], np.int8)
    limit = kernels.activation_limit(w)
    assert limit * 127 * 4000 <= 2**31 - 1
    assert kernels.activation_limit(np.ones((1, 4), np.int8)) == 32767


def test_the_contract_describes_inputs_and_outputs(folder):
    contract = files.read(folder).contract
    assert contract["inputs"]["frames"]["front"]["shape"] == ["B", 2, 32, 48, 3]
    assert contract["vocabulary"]["codes"] == [TINY.text_vocab, TINY.text_vocab + TINY.codes]
    assert contract["model"]["dim"] == TINY.dim
    assert set(contract["files"]) == {"weights.bin", "codebook.safetensors", "selftest.safetensors"}
