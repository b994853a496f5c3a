"""Mutate valid inputs: bytes, the trees of JSON and TOML, MCAP records and the steps of a pickle.

Random changes of bytes seldom pass a length or checksum test, so most mutations change the content and encode it again.
Everything depends on the given generator only.
"""

from __future__ import annotations

import copy
import itertools
import json
import pickletools
import random
import struct
import zlib
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 15, 16, 17, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63,
           2**64, -(2**31), -(2**63), 10**40, 0.0, -0.0, 0.5, 1e-45, 1e9, 1e38, 1e39, 1e308, -1e308)  # fmt: skip
WORDS = (
    "",
    "x",
    "\0",
    "nan",
    "inf",
    "None",
    "../x",
    "/",
    "a" * 300,
    "\u2028",
    "\ud7ff",
    "\U0001f600",
    "default",
    "yarn",
)
RAW = ("@inf@", "@nan@", "@huge@", "@deep@", "@digits@")
"""Placeholders for what JSON writers do not write, replaced afterwards."""
DEEP = 20_000


def blind(dice: random.Random, data: bytes) -> bytes:
    """Change, remove, duplicate or insert some bytes."""
    raw = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at, size = dice.randrange(len(raw) + 1), dice.choice((1, 1, 2, 4, 8, 64))
        what = dice.randrange(5)
        if what == 0 and at < len(raw):
            raw[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            raw[at : at + size] = dice.randbytes(len(raw[at : at + size]))
        elif what == 2:
            del raw[at : at + size]
        elif what == 3:
            raw[at:at] = raw[at : at + size]
        else:
            raw[at : at + 8] = struct.pack("<Q", dice.choice(NUMBERS[:20]) & 2**64 - 1)[: dice.choice((1, 2, 4, 8))]
    return bytes(raw[: dice.randrange(len(raw) + 1)] if dice.random() < 0.05 else raw)


def tree(dice: random.Random, value: Any) -> Any:
    """A copy of a tree of lists, dicts, words and numbers with one to three parts changed."""
    whole = [copy.deepcopy(value)]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        holder: Any = whole
        key: Any = 0
        while isinstance(holder[key], (dict, list)) and holder[key] and dice.random() < 0.9:
            holder = holder[key]
            key = dice.choice(list(holder)) if isinstance(holder, dict) else dice.randrange(len(holder))
        _change(dice, holder, key)
    return whole[0]


def _change(dice: random.Random, holder: Any, key: Any) -> None:
    """Change one part of a tree in place."""
    what, old = dice.randrange(8), holder[key]
    if what == 0 and len(holder) > 1:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[dice.choice((*WORDS, f"{key}s"))] = holder.pop(key)
    elif what == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif what == 3 and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = old + dice.choice((-1, 1, 0.5, old, -2 * old))
    elif what == 4:
        holder[key] = dice.choice((None, True, False, [], {}, [old], {"x": old}, [old, old], [[]], str(old)[:40]))
    elif what == 5:
        holder[key] = dice.choice((*WORDS, *RAW))
    else:
        holder[key] = dice.choice(NUMBERS)


def dumped(dice: random.Random, value: Any) -> bytes:
    """A tree as JSON, with placeholders replaced."""
    text = json.dumps(value, default=str)
    bracket = dice.choice(("[]", "{}"))
    opened = '{"a":' if bracket == "{}" else "["
    for mark, raw in (
        ("@inf@", dice.choice(("Infinity", "-Infinity"))),
        ("@nan@", "NaN"),
        ("@huge@", dice.choice(("1e999", "-1e999"))),
        ("@digits@", "9" * dice.choice((30, 400, 5000))),
        ("@deep@", opened * DEEP + "1" + bracket[1] * DEEP),
    ):
        text = text.replace(f'"{mark}"', raw)
    return text.encode("utf-8", "surrogatepass")


def json_text(dice: random.Random, data: bytes) -> bytes:
    """Mutate a JSON text, usually as a tree."""
    return blind(dice, data) if dice.random() < 0.15 else dumped(dice, tree(dice, json.loads(data)))


def toml_text(dice: random.Random, data: bytes) -> bytes:
    """Mutate lines, values and words of a TOML text."""
    lines = data.decode().splitlines()
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        new = dice.choice((
            "inf", "-inf", "nan", "1e999", "9" * 400, "[]", "{}", "true", "''", "2027-03-31", "2027-03-31T01:02:03Z",
            "07:32:00", "[" * DEEP + "]" * DEEP, "{a=" * 900 + "1" + "}" * 900, '"' + "a" * 300 + '"', 
            "[1, 'x', 2.5]", str(dice.choice(NUMBERS)),
        ))  # fmt: skip
        what = dice.randrange(6)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, lines[dice.randrange(len(lines))])
        elif what == 2:
            lines[at] = ".".join([key.strip()[:40] or "a"] * dice.choice((2, 100, 5000))) + " = 1"
        elif what == 3:
            lines[at] = (
                dice.choice(("[x]", "[[x]]", "[fleet.x]", "\ufeff", "[" + ".".join("a" * 3000) + "]")) + lines[at]
            )
        else:
            lines[at] = f"{key}= {new}" if equals else lines[at] + new
        lines = lines or ["a = 1"]
    text = "\n".join(lines).encode()
    return blind(dice, text) if dice.random() < 0.1 else text


def words(dice: random.Random, data: bytes, vocabulary: tuple[str, ...]) -> bytes:
    """Remove, insert or replace some words of a text, using a vocabulary."""
    parts = data.decode().split()
    for _ in range(dice.choice((1, 2, 3, 8))):
        at = dice.randrange(len(parts) + 1)
        new = dice.choice(vocabulary)
        parts[at : at + dice.randrange(2)] = [new] * dice.choice((1, 1, 1, 1, 60)) if dice.random() < 0.8 else []
    return " ".join(parts).encode() if dice.random() < 0.95 else blind(dice, " ".join(parts).encode())


def mcap(dice: random.Random, data: bytes) -> bytes:
    """Change, drop, duplicate or reorder records of an MCAP file; chunks are packed again with a new checksum."""
    records, at = [], 8
    while at + 9 <= len(data) - 8:
        size = int.from_bytes(data[at + 1 : at + 9], "little")
        records.append((data[at], data[at + 9 : at + 9 + size]))
        at += 9 + size
    for _ in range(dice.choice((1, 1, 2))):
        at = dice.randrange(len(records))
        what = dice.randrange(8)
        if what == 0 and len(records) > 1:
            del records[at]
        elif what == 1:
            records.insert(at, records[dice.randrange(len(records))])
        elif what == 2:
            other = dice.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        elif records[at][0] == 6 and what < 6:
            records[at] = (6, _chunk(dice, records[at][1]))
        else:
            records[at] = (dice.choice((records[at][0], dice.randrange(1, 20))), blind(dice, records[at][1] or b"\0"))
    body = b"".join(bytes([op]) + len(raw).to_bytes(8, "little") + raw for op, raw in records)
    return data[:8] + body + data[-8:]


def _chunk(dice: random.Random, raw: bytes) -> bytes:
    """Mutate the messages of a chunk and pack it again."""
    import zstandard

    name = int.from_bytes(raw[28:32], "little")
    head, kind = raw[:16], raw[32 : 32 + name]
    inner = raw[40 + name :]
    inner = zstandard.ZstdDecompressor().decompress(inner) if kind == b"zstd" else inner
    inner = blind(dice, inner)
    size = dice.choice((len(inner),) * 6 + NUMBERS[:20]) & 2**64 - 1
    packed = zstandard.ZstdCompressor().compress(inner) if kind == b"zstd" else inner
    check = struct.pack("<QI", size, zlib.crc32(inner)) + raw[28 : 32 + name]
    return head + check + len(packed).to_bytes(8, "little") + packed


def pickle_steps(dice: random.Random, data: bytes) -> bytes:
    """Drop, duplicate, exchange or invent steps of a pickle, and change arguments."""
    steps: list[bytes] = []
    begins = [at for _, _, at in pickletools.genops(data) if at is not None] + [len(data)]
    steps = [data[a:b] for a, b in itertools.pairwise(begins)]
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        at, what = dice.randrange(len(steps)), dice.randrange(6)
        if what == 0 and len(steps) > 1:
            del steps[at]
        elif what == 1:
            steps.insert(at, steps[dice.randrange(len(steps))])
        elif what == 2:
            steps[at] = dice.choice(MADE)
        elif what == 3:
            steps.insert(at, dice.choice(MADE))
        elif what == 4 and len(steps[at]) > 1:
            steps[at] = steps[at][:1] + blind(dice, steps[at][1:])
        else:
            other = dice.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
    return b"".join(steps)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


MADE = (
    b"(", b")", b"]", b"}", b"t", b"l", b"d", b"b", b"R", b"0", b"1", b"2", b"N", b".", b"a", b"e", b"s", b"u", b"\x81",
    b"\x85", b"\x86", b"\x87", b"\x88", b"\x94", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x97", b"\x98",
    b"r\x00\x00\x00\x10", b"r\xff\xff\xff\x7f", b"p99999999\n", b"j\xff\xff\xff\xff", b"h\x00", b"h\xff", b"g0\n",
    b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"K\xff", b"M\xff\xff", b"I01\n", b"I-5\n", b"L99999999999999999999L\n",
    b"F1e999\n", b"Fnan\n", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"C\x04\x00\x00\x00\x01", b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8,
    b"X\xff\xff\xff\x7f", b"\x8c\x03\xff\xfe\xfd",
    b"U\x04abcd", b"T\xff\xff\xff\xff", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"P1\n", b"Q", b"\x82\x01", b"(dp1\n",
    _global("numpy", "dtype"), _global("numpy", "ndarray"), _global("numpy.core.multiarray", "_reconstruct"),
    _global("numpy.core.multiarray", "scalar"), _global("numpy._core.numeric", "_frombuffer"), _global("os", "system"),
    _global("builtins", "set"), _global("builtins", "list"), _global("collections", "OrderedDict"),
    _global("_codecs", "encode"), b"\x8c\x02O8", b"\x8c\x02f8", b"\x8c\x03|V9", b"]" * 3000, b"(" * 3000,
)  # fmt: skip
"""Steps of a pickle, valid and invalid."""
