"""Read and write GGUF files: metadata and named arrays, with numpy only.

The `gguf` package is slower and hangs or fails in its own ways on damaged files (docs/log.md has figures).

The container is GGUF v2/v3 (ggml's docs/gguf.md); the block formats are those of ggml-quants. A block holds 32 numbers
(256 in the K formats) as small integers with scales; axes: N blocks of one tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drivefoundry import outputs
from drivefoundry.types import require

ALIGN = 32
DEPTH = 8
"""Maximum nesting of arrays."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
Value = int | float | bool | str | list


class Gguf(NamedTuple):
    """A file's metadata and its tensors, float32, in torch's shapes (rows, columns)."""

    fields: dict[str, Value]
    tensors: dict[str, np.ndarray]


def _halves(block: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of each block, (N, 1)."""
    return block[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Unpack (N, B) bytes to (N, 2B): all low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], -1).astype(np.float32)


def _q4_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * (_nibbles(b[:, 2:]) - 8)


def _q4_1(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * _nibbles(b[:, 4:]) + _halves(b, 2)


def _fifths(b: np.ndarray, at: int) -> np.ndarray:
    """The 32 fifth bits in the four bytes at `at`, (N, 32) of 0 or 16."""
    bits = b[:, at : at + 4].copy().view("<u4") >> np.arange(32, dtype=np.uint32) & 1
    return bits.astype(np.float32) * 16


def _q5_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * (_nibbles(b[:, 6:]) + _fifths(b, 2) - 16)


def _q5_1(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * (_nibbles(b[:, 8:]) + _fifths(b, 4)) + _halves(b, 2)


def _q8_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * b[:, 2:].view(np.int8)


def _k_scales(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unpack 12 bytes to 8 scales and 8 minima of 6 bits, (N, 8, 1) each."""
    low, mid, high = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], 1)
    least = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], 1)
    return scale[..., None].astype(np.float32), least[..., None].astype(np.float32)


def _q4_k(b: np.ndarray) -> np.ndarray:
    scale, least = _k_scales(b[:, 4:16])
    q = _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return (_halves(b, 0)[..., None] * scale * q - _halves(b, 2)[..., None] * least).reshape(-1, 256)


def _q6_k(b: np.ndarray) -> np.ndarray:
    low, high = b[:, :128].reshape(-1, 2, 2, 32), b[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([low & 15, low >> 4], 2)
    high = (high >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]) & 3
    q = (low | (high << 4)).astype(np.float32) - 32
    scale = b[:, 192:208].view(np.int8).astype(np.float32) * _halves(b, 208)
    return (q.reshape(-1, 16, 16) * scale[..., None]).reshape(-1, 256)


class _Kind(NamedTuple):
    """A block format: its name, numbers and bytes per block, and a function from (N, bytes) uint8 to (N, numbers)
    float32."""

    name: str
    numbers: int
    bytes: int
    read: Callable[[np.ndarray], np.ndarray]


_KINDS = {
    0: _Kind("F32", 1, 4, lambda b: b.view("<f4")),
    1: _Kind("F16", 1, 2, lambda b: b.view("<f2").astype(np.float32)),
    2: _Kind("Q4_0", 32, 18, _q4_0),
    3: _Kind("Q4_1", 32, 20, _q4_1),
    6: _Kind("Q5_0", 32, 22, _q5_0),
    7: _Kind("Q5_1", 32, 24, _q5_1),
    8: _Kind("Q8_0", 32, 34, _q8_0),
    12: _Kind("Q4_K", 256, 144, _q4_k),
    14: _Kind("Q6_K", 256, 210, _q6_k),
    30: _Kind("BF16", 1, 2, lambda b: (b.view("<u2").astype(np.uint32) << 16).view(np.float32)),
}
_IDS = {kind.name: number for number, kind in _KINDS.items()}


class _Cursor:
    """Sequential reader of the header. ValueError if the file ends too early."""

    def __init__(self, path: Path, raw: np.ndarray):
        self.path, self.raw, self.at = path, raw, 0

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.raw), f"{self.path}: the header is truncated; fetch the file again")
        self.at += size
        return self.raw[self.at - size : self.at].tobytes()

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int, deep: int = 0) -> Value:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            require(kind in _SCALARS, f"{self.path}: metadata of unknown type {kind}; the file is damaged")
            return self.number(_SCALARS[kind])
        of, count = self.number("<I"), self.number("<Q")
        require(deep < DEPTH, f"{self.path}: arrays nested more than {DEPTH} deep; the file is damaged")
        require(count <= len(self.raw) - self.at, f"{self.path}: the header is truncated; fetch the file again")
        if of in _SCALARS:
            form = np.dtype(_SCALARS[of].replace("B", "u1").replace("b", "i1"))
            return np.frombuffer(self.take(count * form.itemsize), form).tolist()
        return [self.value(of, deep + 1) for _ in range(count)]


def read_gguf(path: Path) -> Gguf:
    """Read a .gguf file's metadata and dequantised tensors.

    ValueError if it is not a GGUF file, is truncated, or has a block format other than F32, F16, BF16, Q4_0, Q4_1,
    Q5_0, Q5_1, Q8_0, Q4_K and Q6_K.
    """
    raw = np.memmap(path, np.uint8, "r") if Path(path).stat().st_size else np.zeros(0, np.uint8)
    head = _Cursor(Path(path), raw)
    require(len(raw) > 24 and head.take(4) == b"GGUF", f"{path}: not a GGUF file (its first bytes are not 'GGUF')")
    version = head.number("<I")
    require(version in (2, 3), f"{path}: GGUF version {version}, must be 2 or 3")
    count, keys = head.number("<Q"), head.number("<Q")
    fields: dict[str, Value] = {}
    for _ in range(keys):
        key = head.text()
        require(key not in fields, f"{path}: {key[:80]} appears twice; the file is damaged")
        fields[key] = head.value(head.number("<I"))
    table: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name, dims = head.text(), head.number("<I")
        require(name not in table, f"{path}: tensor {name[:80]} appears twice; the file is damaged")
        require(1 <= dims <= 4, f"{path}: tensor {name[:80]} has {dims} axes, must be 1 to 4; the file is damaged")
        shape = tuple(head.number("<Q") for _ in range(dims))[::-1]
        table[name] = shape, head.number("<I"), head.number("<Q")
    align = fields.get("general.alignment", ALIGN)
    plain = type(align) is int and 0 < align <= 1 << 20
    require(plain, f"{path}: general.alignment is {str(align)[:40]}; the file is damaged")
    assert isinstance(align, int)
    start = -(-head.at // align) * align
    spans = {name: (at, at + _bytes(path, name, shape, kind)) for name, (shape, kind, at) in table.items()}
    end = 0
    for name, (begin, stop) in sorted(spans.items(), key=lambda entry: entry[1]):
        begins = -(-end // align) * align
        require(begin == begins, f"{path}: tensor {name} begins at {begin}, must be at {begins}; the file is damaged")
        require(start + stop <= len(raw), f"{path}: tensor {name} is truncated; fetch the file again")
        end = stop
    read = {name: raw[start + begin : start + stop] for name, (begin, stop) in spans.items()}
    return Gguf(fields, {name: _tensor(read[name], *entry) for name, entry in table.items()})


def _bytes(path: Path, name: str, shape: tuple[int, ...], kind: int) -> int:
    """Number of bytes of a tensor in the file."""
    require(kind in _KINDS, f"{path}: tensor {name[:80]} has block format {kind}; must be one of {', '.join(_IDS)}")
    form = _KINDS[kind]
    require(shape[-1] % form.numbers == 0, f"{path}: tensor {name[:80]} is not a multiple of {form.name} blocks")
    return math.prod(shape) // form.numbers * form.bytes


def _tensor(raw: np.ndarray, shape: tuple[int, ...], kind: int, _: int) -> np.ndarray:
    form = _KINDS[kind]
    return form.read(np.array(raw).reshape(-1, form.bytes)).astype(np.float32, copy=False).reshape(shape)


def _to_q8_0(x: np.ndarray) -> bytes:
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    q = np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), q.view(np.uint8)], 1).tobytes()


def _packed(x: np.ndarray, form: str) -> tuple[str, bytes]:
    """Encode a tensor; vectors, and tensors that do not split into whole blocks, stay F32."""
    x = np.ascontiguousarray(x, "<f4")
    if form == "F32" or x.ndim == 1 or (form == "Q8_0" and x.shape[-1] % 32):
        return "F32", x.tobytes()
    return form, x.astype("<f2").tobytes() if form == "F16" else _to_q8_0(x)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: Value) -> tuple[int, bytes]:
    """Type number and bytes of a metadata value; ints are stored as uint32 (in arrays int32), floats as float32."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _string(value)
    if isinstance(value[0], str):
        kind, body = _STRING, b"".join(map(_string, value))
    else:
        kind, form = (5, "<i4") if isinstance(value[0], int) else (6, "<f4")
        body = np.array(value, form).tobytes()
    return _ARRAY, struct.pack("<IQ", kind, len(value)) + body


def write_gguf(path: Path, fields: Mapping[str, Value], tensors: Mapping[str, np.ndarray], form: str = "F32") -> None:
    """Write metadata and named arrays as a GGUF v3 file; matrices as `form` (F32, F16 or Q8_0), vectors always F32."""
    require(form in ("F32", "F16", "Q8_0"), f"GGUF format {form!r}: must be F32, F16 or Q8_0")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    for key, value in fields.items():
        kind, body = _typed(value)
        head += _string(key) + struct.pack("<I", kind) + body
    sizes: Sequence[tuple[str, int]] = [(f, len(b)) for f, b in (_packed(x, form) for x in tensors.values())]
    at = 0
    for (name, x), (kind, size) in zip(tensors.items(), sizes, strict=True):
        head += _string(name) + struct.pack(f"<I{x.ndim}Q", x.ndim, *x.shape[::-1]) + struct.pack("<IQ", _IDS[kind], at)
        at += -(-size // ALIGN) * ALIGN
    with outputs.file(path, ".gguf") as aside, aside.open("wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        for x in tensors.values():
            body = _packed(x, form)[1]
            f.write(body + bytes(-len(body) % ALIGN))
