from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.outputs import MARK
from drivefoundry.quantize.export import check, export_engine
from drivefoundry_car import arrays
from drivefoundry_car.engine import Engine, files
from student import TINY, part, samples

FRAMES, EGO, ROUTE, _ = samples(96, seed=5)


def test_the_report_is_what_it_cost(student, tmp_path):
    report = export_engine(student, tmp_path / "engine", FRAMES, EGO, ROUTE)
    assert report["token_agreement"] > 0.93
    assert report["plan_agreement"] <= report["token_agreement"]
    assert 0 < report["weight_error"] <= report["worst_weight_error"] < 0.03
    assert 0 <= report["plan_error_m"] < 1.0
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "engine").iterdir() if p.name != MARK}
    assert sizes.keys() == {"engine.json", "weights.bin", "codebook.safetensors", "selftest.safetensors"}
    assert report["bytes"] == pytest.approx(sum(sizes.values()) - sizes["selftest.safetensors"], abs=200)
    assert report["compression"] > 2.5


def test_weights_are_those_of_the_student_within_a_step(student, tmp_path):
    from drivefoundry.model.checkpoint import load_checkpoint

    export_engine(student, tmp_path, FRAMES, EGO, ROUTE)
    kept, state = files.read(tmp_path).tensors, load_checkpoint(student).model.state_dict()
    for name in ("blocks.0.down", "blocks.1.q"):
        w, step = state[f"decoder.{name}.weight"].numpy(), kept[f"{name}.scale"][:, None]
        assert kept[f"{name}.weight"].dtype == np.int8
        assert np.abs(kept[f"{name}.weight"] * step - w).max() < 8 * step.max()
    codes = state["embed"].numpy()[TINY.text_vocab : TINY.text_vocab + TINY.codes]
    assert kept["embed.codes.weight"].dtype == np.int16
    step = kept["embed.codes.scale"][:, None]
    assert (np.abs(kept["embed.codes.weight"] * step - codes) <= 0.51 * step).all()
    assert np.array_equal(kept["norm"], state["decoder.norm"].numpy())


def test_the_same_checkpoint_gives_the_same_bytes(student, tmp_path):
    for name in ("a", "b"):
        export_engine(student, tmp_path / name, FRAMES, EGO, ROUTE)
    for name in ("engine.json", "weights.bin", "codebook.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_older_engine_is_replaced_and_what_lies_beside_it_stays(student, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    export_engine(student, tmp_path, part(FRAMES, slice(4)), EGO[:4], ROUTE[:4], self_test=2)
    export_engine(student, tmp_path, part(FRAMES, slice(8)), EGO[:8], ROUTE[:8], self_test=3)
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert Engine(tmp_path).plan(part(FRAMES, slice(1)), EGO[:1], ROUTE[:1])[1].shape == (1, 8)
    assert len(arrays.read(tmp_path / "selftest.safetensors")["points"]) == 3
    (tmp_path / "weights.bin").write_text("mine too")
    with pytest.raises(ValueError, match=r"weights\.bin: exists and is not from an earlier run"):
        export_engine(student, tmp_path, part(FRAMES, slice(4)), EGO[:4], ROUTE[:4])
    assert (tmp_path / "weights.bin").read_text() == "mine too"


def test_one_sample_will_do(student, tmp_path):
    export_engine(student, tmp_path, part(FRAMES, slice(1)), EGO[:1], ROUTE[:1])
    Engine(tmp_path)


def test_what_cannot_be_exported_is_refused(student, tmp_path):
    with pytest.raises(ValueError, match="calibration"):
        export_engine(student, tmp_path / "e", part(FRAMES, slice(0)), EGO[:0], ROUTE[:0])
    with pytest.raises(ValueError, match="checkpoint"):
        export_engine(Path(tmp_path / "none"), tmp_path / "e", FRAMES, EGO, ROUTE)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("dim", {"dim": 40}),
        ("head_dim", {"head_dim": 8}),
        ("positions", {"image": (512, 512)}),
        ("tied: the engine only runs True, got False", {"tied": False}),
        ("action", {"action": "flow"}),
        ("rope_scaling", {"rope_scaling": (8.0, 1.0, 4.0, 8192)}),
    ],
)
def test_shapes_that_the_kernels_cannot_run_are_refused(field, changed):
    with pytest.raises(ValueError, match=field):
        check(replace(TINY, **changed))
