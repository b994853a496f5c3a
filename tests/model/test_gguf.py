"""GGUF files: each block format against its definition, number by number; damage is reported."""

import json
import struct

import numpy as np
import pytest

from drivefoundry.model.gguf import _IDS, _KINDS, read_gguf, write_gguf
from drivefoundry.model.tensors import read_tensors, write_tensors

RNG = np.random.default_rng(0)


def half(x: float) -> list[int]:
    return list(np.float16(x).tobytes())


def block(name: str) -> tuple[np.ndarray, list[float]]:
    """Bytes of one block, and the numbers that ggml's definition of the format gives for them."""
    d, m = float(np.float16(0.37)), float(np.float16(-1.25))
    q = [int(x) for x in RNG.integers(0, 256, 200)]
    if name in ("Q4_0", "Q4_1"):
        low, high = [b & 15 for b in q[:16]], [b >> 4 for b in q[:16]]
        raw = half(d) + (half(m) if name == "Q4_1" else []) + q[:16]
        return np.array(raw, np.uint8), [d * x + m if name == "Q4_1" else d * (x - 8) for x in low + high]
    if name in ("Q5_0", "Q5_1"):
        bits, nibbles = q[:4], q[4:20]
        numbers = []
        for i in range(32):
            low = nibbles[i % 16] >> 4 if i >= 16 else nibbles[i % 16] & 15
            numbers.append(low + 16 * (bits[i // 8] >> i % 8 & 1))
        raw = half(d) + (half(m) if name == "Q5_1" else []) + bits + nibbles
        return np.array(raw, np.uint8), [d * x + m if name == "Q5_1" else d * (x - 16) for x in numbers]
    if name == "Q8_0":
        return np.array(half(d) + q[:32], np.uint8), [d * (x - 256 if x > 127 else x) for x in q[:32]]
    if name == "Q4_K":
        scales, body, out = q[:12], [int(x) for x in RNG.integers(0, 256, 128)], []
        for j in range(8):
            if j < 4:
                scale, least = scales[j] & 63, scales[j + 4] & 63
            else:
                scale = (scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4)
                least = (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4)
            part = body[32 * (j // 2) : 32 * (j // 2) + 32]
            out += [d * scale * (b >> 4 if j % 2 else b & 15) - m * least for b in part]
        return np.array(half(d) + half(m) + scales + body, np.uint8), out
    low, high, scales = (RNG.integers(0, 256, n).tolist() for n in (128, 64, 16))
    out = [0.0] * 256
    for n in range(2):
        for i in range(32):
            for k in range(4):
                nibble = low[64 * n + 32 * (k % 2) + i] >> (4 * (k // 2)) & 15
                value = nibble | ((high[32 * n + i] >> (2 * k) & 3) << 4)
                scale = scales[8 * n + 2 * k + i // 16]
                out[128 * n + 32 * k + i] = d * (scale - 256 if scale > 127 else scale) * (value - 32)
    return np.array(low + high + scales + half(d), np.uint8), out


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
def test_blocks_are_read_as_defined(name):
    kind = _KINDS[_IDS[name]]
    made = [block(name) for _ in range(3)]
    raw = np.stack([b for b, _ in made])
    assert raw.shape == (3, kind.bytes)
    assert np.allclose(kind.read(raw), [numbers for _, numbers in made], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "off"), [("F32", 0.0), ("F16", 1e-3), ("Q8_0", 0.02)])
def test_round_trip(form, off, tmp_path):
    fields = {"a.text": "l'été", "a.int": 7, "a.float": 0.5, "a.bool": True, "a.words": ["x", "yz"], "a.ints": [1, 2]}
    tensors = {"matrix": RNG.normal(size=(3, 64)).astype(np.float32), "vector": np.arange(5, dtype=np.float32)}
    write_gguf(tmp_path / "x.gguf", fields, tensors, form)
    got = read_gguf(tmp_path / "x.gguf")
    assert got.fields == fields
    assert np.array_equal(got.tensors["vector"], tensors["vector"])
    assert np.abs(got.tensors["matrix"] - tensors["matrix"]).max() <= off


def test_any_flipped_byte_is_read_or_refused(tmp_path):
    path, dice = tmp_path / "x", np.random.default_rng(0)
    for write, read in ((lambda t: write_gguf(path, {"a": "b", "general.alignment": 32, "c": [1, 2]}, t), read_gguf),
                        (lambda t: write_tensors(path, t), read_tensors)):  # fmt: skip
        write({"w": np.ones((4, 32), np.float32), "v": np.ones(3, np.float32)})
        whole, refused = path.read_bytes(), []
        for _ in range(400):
            raw = bytearray(whole)
            raw[dice.integers(0, len(raw) - 500)] = dice.integers(0, 256)
            path.write_bytes(raw)
            try:
                read(path)
            except ValueError as why:
                refused.append(str(why))
        assert len(refused) > 40
        assert all(line.startswith(str(path)) for line in refused)


def test_damage_is_named(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, {"a": "b"}, {"w": np.ones((4, 32), np.float32)})
    whole = path.read_bytes()
    for raw, message in (
        (b"", "not a GGUF file"),
        (b"GGML" + whole[4:], "not a GGUF file"),
        (whole[:4] + b"\x09" + whole[5:], "GGUF version 9"),
        (whole[:40], "the header is truncated"),
        (whole[:-20], "tensor w is truncated; fetch the file again"),
        (whole[:16] + b"\xff" * 8 + whole[24:], "damaged|truncated"),
        (whole.replace(b"w\x02\x00\x00\x00", b"w\xff\xff\xff\xff"), "damaged|truncated"),
    ):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=rf"x\.gguf: .*({message})"):
            read_gguf(path)


def test_arrays_of_arrays_have_an_end(tmp_path):
    path = tmp_path / "x.gguf"
    for depth, read in ((3, True), (100_000, False)):
        nested = (
            struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 1) + struct.pack("<I", 7)
        )
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + nested)
        if read:
            assert read_gguf(path).fields == {"a": [[[[7]]]]}
        else:
            with pytest.raises(ValueError, match=r"x\.gguf: arrays nested more than 8 deep"):
                read_gguf(path)


def test_tensors_of_a_gguf_file_share_no_bytes(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, {"a": "b"}, {"v": np.ones(8, np.float32), "w": np.ones(8, np.float32)})
    whole = path.read_bytes()
    at = whole.index(b"w\x01\x00\x00\x00") + 5 + 8 + 4
    assert struct.unpack_from("<Q", whole, at) == (32,)
    for offset in (0, 64):
        path.write_bytes(whole[:at] + struct.pack("<Q", offset) + whole[at + 8 :] + bytes(64))
        with pytest.raises(ValueError, match=r"x\.gguf: tensor w begins at (0|64), must be at 32"):
            read_gguf(path)
    path.write_bytes(whole.replace(b"w\x01\x00\x00\x00", b"v\x01\x00\x00\x00"))
    with pytest.raises(ValueError, match="tensor v appears twice"):
        read_gguf(path)


FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": FOUR, "b": FOUR, "c": FOUR | {"data_offsets": [4, 8]}},
        {"a": FOUR},
        {"a": FOUR | {"data_offsets": [4, 8]}},
        {"a": FOUR, "b": FOUR | {"data_offsets": [4, 12]}},
        {"a": FOUR | {"shape": [2], "data_offsets": [0, 8]}, "b": FOUR | {"data_offsets": [8, 4]}},
        {"a": FOUR | {"shape": [1.0]}},
        {"a": FOUR | {"shape": [-1, -1]}},
        {"a": FOUR | {"shape": [True]}},
        {"a": FOUR | {"data_offsets": "04"}},
        {"a": [1, 2]},
        {"a": FOUR | {"shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        [],
    ],
)
def test_tensors_of_a_safetensors_file_fill_it_one_by_one(header, tmp_path):
    path, head = tmp_path / "x.safetensors", json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(ValueError, match=r"x\.safetensors: not an intact \.safetensors file"):
        read_tensors(path)


def test_a_type_that_weights_do_not_have_is_refused(tmp_path):
    path, head = tmp_path / "x.safetensors", json.dumps({"a": FOUR | {"dtype": "I32"}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(ValueError, match=r"x\.safetensors: tensor a is torch\.int32, must be one of F32, F16, BF16"):
        read_tensors(path)


def test_a_header_has_bounds(tmp_path):
    path = tmp_path / "x.safetensors"
    for head in (
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}',
        b'{"a": 1' + b"0" * 5000 + b"}",
    ):
        path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
        with pytest.raises(ValueError, match=r"x\.safetensors: not an intact"):
            read_tensors(path)
    with path.open("wb") as sparse:
        sparse.write((1 << 27).to_bytes(8, "little") + b"{}")
        sparse.truncate(1 << 28)
    with pytest.raises(ValueError, match="not an intact"):
        read_tensors(path)
