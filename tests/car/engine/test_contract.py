"""A sealed contract with impossible numbers is refused in one line, by Python and by the kernels themselves."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.quantize.export import export_engine
from drivefoundry_car import arrays
from drivefoundry_car.engine import Engine, files, kernels
from student import samples


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("engine")
    export_engine(student, out, *samples(64, seed=3)[:3], self_test=4)
    return out


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def reseal(engine: Path, *changes: tuple[str, object]) -> None:
    """Set values at dotted keys of the contract, and update its digests."""
    told = json.loads((engine / files.CONTRACT).read_text())
    del told["sha256"]
    for key, value in changes:
        *way, last = key.split("/")
        place = told
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    for name in told.get("files") or ():
        if isinstance(told["files"], dict) and (engine / name).is_file():
            told["files"][name] = hashlib.sha256((engine / name).read_bytes()).hexdigest()
    (engine / files.CONTRACT).write_bytes(files.seal(told))


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((f"vocabulary/{name}", value) for name in ("task", "think", "act") for value in (HUGE, 1000, -1, 3.0, "x")),
        *((f"model/{name}", value) for name in ("patch", "layers", "dim", "heads", "kv_heads", "head_dim", "ffn",
          "codes", "text_vocab", "max_text", "stem", "history", "ego_features", "route_features", "frames")
          for value in (0, -1, HUGE, 7_000, None, True)),
        *((f"model/{name}", 7) for name in ("patch", "layers", "dim", "head_dim")),
        *(("model/image", value) for value in ([0, 0], [32], [32, 48, 3], "32", [HUGE, HUGE], [32.0, 48.0], [40, 48],
          [48, 48])),
        *(("model/others", value) for value in (None, "rear", [["rear", 32]], [["rear", 30, 48]], [[1, 32, 48]],
          [["rear", 32, 48]])),
        *((f"embodiment/{key}", value) for key, value in (("cameras", []), ("length", -1.0), ("colour", "red"),
          ("decision_dt", 0.25), ("name", ...))),
        ("embodiment", ...), ("embodiment", []),
        *(("plan", value) for value in (0, -1, 9, HUGE, None)),
        *(("ego_scale", value) for value in ([], [0.1], [0.1, 2.0, "x"], [0.1, 2.0, float("nan")], [1e300] * 3)),
        *(("model/rope_theta", value) for value in (0, -1.0, float("inf"), float("nan"), "x", 10**400)),
        ("model/norm_eps", 1e-5), ("model/tied", False), ("model/qkv_bias", True),
        ("model/rope_scaling", [8.0, 1, 4, 9]),
        ("model", []), ("model", ...), ("vocabulary", ...), ("text", ...), ("text", [1, 2]), ("tensors", []),
        ("files", {}),
        ("files", ["weights.bin"]), ("files", {"../x": "0", "weights.bin": "0", "codebook.safetensors": "0"}),
        ("tensors/norm", ...), ("tensors/norm", ["int8", [32], 0]),
        ("tensors/norm", ["float32", [-32], 0]), ("tensors/norm", ["float32", [32], -4]),
        ("tensors/norm", ["float32", [32]]),
        ("tensors/norm", ["float32", [32], 2**60]), ("tensors/norm", ["float32", [2**40, 2**40], 0]),
        ("tensors/norm", ["float32", [32], 0]), ("tensors/more", ["int8", [0], 0]), ("tensors/embed.marks", None),
    ],
)  # fmt: skip
def test_numbers_that_no_engine_has_are_named(key, value, copy):
    reseal(copy, (key, value))
    with pytest.raises(ValueError, match=r"engine\.json|weights\.bin") as refused:
        Engine(copy)
    assert "\n" not in str(refused.value)


def test_weights_and_codebooks_that_no_car_can_drive_are_named(copy):
    told = json.loads((copy / files.CONTRACT).read_text())
    raw, book = bytearray((copy / files.WEIGHTS).read_bytes()), arrays.read(copy / files.CODEBOOK)["codebook"]
    offset = told["tensors"]["blocks.0.q.scale"][2]
    raw[offset : offset + 4] = np.float32(np.nan).tobytes()
    (copy / files.WEIGHTS).write_bytes(raw)
    reseal(copy)
    with pytest.raises(ValueError, match=r"weights\.bin: blocks\.0\.q\.scale has values that are not finite"):
        Engine(copy)
    raw[offset : offset + 4] = np.float32(0.01).tobytes()
    (copy / files.WEIGHTS).write_bytes(raw)
    for spoilt in (book[:-1], book * np.float32(1e30), book.astype(np.int64), book.T, np.full_like(book, np.nan)):
        arrays.write(copy / files.CODEBOOK, {"codebook": spoilt})
        reseal(copy)
        with pytest.raises(ValueError, match=r"codebook\.safetensors: "):
            Engine(copy)
    for foreign in (b"\x93NUMPY\x01\x00\x05\x00{'a'", arrays.to_bytes({"book": book})):
        (copy / files.CODEBOOK).write_bytes(foreign)
        reseal(copy)
        with pytest.raises(ValueError, match=r"codebook\.safetensors: "):
            Engine(copy)


def test_a_speed_beyond_any_integer_still_gives_a_plan(folder):
    frames, ego, route, _ = samples(3, seed=1)
    ego[:, -1, 0] = (25.0, 1e12, 3e38)
    with np.errstate(all="ignore"):
        tokens = Engine(folder).plan(frames, ego, route)[1]
    assert ((tokens >= 0) & (tokens < 32)).all()


def test_the_kernels_refuse_by_themselves(folder):
    good = dict.fromkeys(kernels.SHAPE, 16)
    kernels.Kernels(good, [(16, 16)])
    for name, value in (("patch", 0), ("layers", -1), ("layers", HUGE), ("heads", 0), ("kv_heads", 3), ("max_text", 0),
                        ("plan", HUGE), ("head_dim", 8), ("dim", 24), ("ffn", -16)):  # fmt: skip
        with pytest.raises(ValueError, match="no model has the shape"):
            kernels.Kernels(good | {name: value}, [(16, 16)])
    for pictures in ([], [(HUGE, 16)], [(16, 24)], [(16, 16), (0, 16)], [(16, 16)] * 17, [(256, 256), (256, 256)]):
        with pytest.raises(ValueError, match="no model has the shape"):
            kernels.Kernels(good, pictures)
    made = kernels.Kernels(good, [(16, 16)])
    w, one = np.zeros((16, 16), np.int16), np.ones(16, np.float32)
    with pytest.raises(ValueError, match=r"matrix 900: \(16, 16\) does not match this model's shape"):
        made.matrix(900, w, one, None, 1.0)
    with pytest.raises(ValueError, match="table 3: 16 numbers"):
        made.floats(3, one)
    inputs = np.zeros((1, 2, 16, 16, 3), np.uint8), one[None], one[None], one[:1]
    with pytest.raises(ValueError, match="a matrix or table is missing"):
        made.run(*inputs, False, 1)
