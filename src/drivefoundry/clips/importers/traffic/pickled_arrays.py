"""Build NumPy arrays over the bytes of a pickle from the pickle's own description of them.

A dtype is accepted as name and byte order only. The rest of its state (fields, subarrays, explicit sizes) is refused,
because NumPy trusts it and reads out of bounds. Format: numpy's `ndarray.__reduce__` and `dtype.__reduce__`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from drivefoundry.types import require

_KIND = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,7}|O8?)\Z")


@dataclass
class Budget:
    """Bytes of the file, and how many more bytes its arrays may use; bytes in the file count once."""

    size: int
    room: int

    def spend(self, count: int) -> None:
        self.room -= count
        require(self.room >= 0, "arrays that are made of the same bytes again and again")


class Name:
    """A name in the pickle: a word, never called."""

    def __init__(self, word: str):
        self.word = word


class Dtype:
    """A dtype whose byte order comes later, as its state."""

    def __init__(self, kind: str):
        self.kind, self.order = kind, "<"

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


class Pending:
    """An array whose shape and bytes come later, as its state; slots: its memo entries."""

    def __init__(self) -> None:
        self.slots: list[int] = []


def dtype(budget: Budget, given: tuple[Any, ...]) -> Dtype:
    """The dtype of a name such as "f8", "<i4" or "U5"."""
    name = str(given[0]) if given and isinstance(given[0], str) else ""
    found = _KIND.match(name)
    if found is None:
        raise ValueError(f"an array of {name[:40]!r}; only numbers, bool and text are supported")
    out = Dtype(found.group(1))
    out.order = ">" if name[0] == ">" else "<"
    return out


def reconstruct(budget: Budget, given: tuple[Any, ...]) -> Pending:
    named = len(given) == 3 and isinstance(given[0], Name) and given[0].word == "ndarray"
    require(named and isinstance(given[1], tuple) and given[1] == (0,), "an array that does not begin empty")
    return Pending()


def scalar(budget: Budget, given: tuple[Any, ...]) -> Any:
    require(len(given) == 2 and isinstance(given[0], Dtype), "a scalar without a dtype")
    return array(budget, (), given[0], given[1], "C")[()]


def from_buffer(budget: Budget, given: tuple[Any, ...]) -> np.ndarray:
    """Build an array of pickle protocol 5."""
    require(len(given) == 4, "an array without a shape")
    buffer, dtype, shape, order = given
    require(isinstance(dtype, Dtype) and isinstance(order, str) and order in "CF", "an array without a dtype")
    return array(budget, shape, dtype, buffer, "F" if order == "F" else "C")


def set_order(dtype: Dtype, state: tuple[Any, ...]) -> None:
    """Take the byte order from a dtype's state; anything else in it (fields, subarrays, metadata) is refused."""
    sound = len(state) in (8, 9) and all(isinstance(state[i], (int, str)) for i in (0, 1, 5))
    require(sound and state[1] in ("<", ">", "|", "="), "a dtype with an unknown state")
    plain = all(part is None for part in (*state[2:5], *state[8:]))
    require(plain, "an array with fields, subarrays or metadata")
    if dtype.kind[0] in "SU":
        size = int(dtype.kind[1:]) * (4 if dtype.kind[0] == "U" else 1)
        require(state[5] == size, f"text of {state[5]} bytes where its name says {size}")
    elif dtype.kind[0] != "O":
        require(state[5] == -1, "a number with a size of its own")
    dtype.order = ">" if state[1] == ">" else "<"


def objects(shape: Any, values: Any) -> list[Any]:
    """Return an array of objects as a list, which holds values of the file rather than pointers."""
    sound = isinstance(values, list) and isinstance(shape, tuple) and shape == (len(values),)
    require(sound, "an array of objects that is not a flat list; write it as a list")
    return values


def array(budget: Budget, shape: Any, dtype: Dtype, raw: Any, order: Literal["C", "F"]) -> np.ndarray:
    """Build an array over its bytes in the file; ValueError if their number is wrong."""
    sized = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    require(sized, "an array whose shape is not a tuple of sizes")
    require(dtype.kind[0] != "O", "an array of objects as bytes")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    require(isinstance(raw, (bytes, bytearray)), "an array without bytes")
    kind, count = dtype.numpy(), math.prod(shape)
    require(count * kind.itemsize == len(raw), f"an array of {count} values in {len(raw)} bytes")
    require(max((*shape, count)) <= max(budget.size, 64), "an empty array with sides longer than the file")
    budget.spend(len(raw) + count)
    if count == 0 or kind.itemsize == 0:
        return np.zeros(shape, kind.newbyteorder("="))
    if kind.kind == "b":  # NumPy miscounts bools other than 0 and 1
        return np.asarray(np.ndarray(shape, np.uint8, raw, order=order) != 0)
    out = np.ndarray(shape, kind, raw, order=order)
    if kind.kind == "U":
        points = np.frombuffer(raw, kind.byteorder.replace("=", "<") + "u4")
        require(bool((points < 0x110000).all()), "text with no such characters")
        require(not bool(((points >= 0xD800) & (points < 0xE000)).any()), "text with half a character")
    return np.asarray(out, kind.newbyteorder("="))
