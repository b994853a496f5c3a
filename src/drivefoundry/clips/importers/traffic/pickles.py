"""Read a pickle of plain data without running it: values are built from the opcodes, arrays from their bytes.

`pickle.load` calls what a file names; this reader never does. It supports the opcodes that plain values need (None,
numbers, text, bytes, lists, tuples, dicts, sets, NumPy arrays and scalars, protocols 0 to 5) and refuses all others.
Memory and time are linear in the size of the file. Format: Python's pickletools; numpy's `ndarray.__reduce__`,
`dtype.__reduce__`.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from drivefoundry.clips.importers.traffic import pickled_arrays
from drivefoundry.clips.importers.traffic.pickled_arrays import Budget, Dtype, Name, Pending
from drivefoundry.types import require

DEEPEST = 60
"""Deepest nesting of containers; NumPy itself allows 64."""
MOST_VALUES = 5_000_000
"""Most values in a file; scenarios hold some 100,000."""
SPARE = 1_000_000
"""Most values reachable through shared containers, beyond one per byte: sharing costs no bytes."""
MOST_BITS = 512
"""Longest integer, bits."""

_CORE = ("numpy.core", "numpy._core")
_CALLED = {
    **{(f"{core}.multiarray", "_reconstruct"): "reconstruct" for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): "scalar" for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): "frombuffer" for core in _CORE},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{
        ("builtins", k): k
        for k in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
    },
    ("collections", "OrderedDict"): "ordered",
    ("collections", "defaultdict"): "default",
    ("_codecs", "encode"): "encode",
}
"""Names that a file may contain, some only as the type of a defaultdict. To this reader they are words."""
_PYTHON_2 = {"__builtin__": "builtins"}
"""Modules as protocols 0 to 2 write them."""


class Named(ValueError):
    """The file names a class or function that plain data does not need."""


_SCALAR = (bool, int, float, str, bytes, bytearray, type(None), np.generic)


def load(data: bytes) -> Any:
    """Read the value in a pickle.

    OrderedDict and defaultdict become dicts, arrays of objects lists. ValueError says what is wrong with the pickle;
    `Named`, which class or function it names that plain data does not need.
    """
    machine = _Machine(len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for escapes in the text of protocol 0
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            require(count < 4 * MOST_VALUES, f"over {4 * MOST_VALUES} opcodes")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, arg)
    value = machine.pop()
    require(not machine.stack, "values are left over at its end")
    _check(value, 2 * len(data) + SPARE)
    return value


class _Machine:
    """The stack and the memo of a pickle of `size` bytes."""

    def __init__(self, size: int):
        self.stack, self.marks, self.memo, self.made = [], [], {}, 0
        self.budget = Budget(size, 2 * size + SPARE)

    def step(self, name: str, arg: Any) -> None:
        if name in _VALUES:
            self.push(_plain(arg))
        elif name in _FIXED:
            self.push(_FIXED[name]())
        elif name in _STEPS:
            _STEPS[name](self, arg)
        else:
            raise ValueError(f"opcode {name}, which plain data does not need")

    def push(self, value: Any) -> None:
        self.made += 1
        require(self.made < MOST_VALUES, f"over {MOST_VALUES} values")
        self.stack.append(value)

    def pop(self) -> Any:
        least = self.marks[-1] if self.marks else 0
        require(len(self.stack) > least, "a value is missing")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        value = self.pop()
        self.stack.append(value)
        require(isinstance(value, kind), f"a {kind.__name__.strip('_').lower()} is missing")
        return value

    def marked(self) -> list[Any]:
        """Pop the values since the last mark."""
        require(bool(self.marks), "a mark is missing")
        at = self.marks.pop()
        out = self.stack[at:]
        del self.stack[at:]
        return out


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        require(value.bit_length() <= MOST_BITS, f"an integer of over {MOST_BITS} bits")
    elif isinstance(value, str) and not value.isascii():
        value.encode()  # a lone surrogate can be neither printed nor written
    return value


def _mark(m: _Machine, arg: Any) -> None:
    m.marks.append(len(m.stack))


def _drop(m: _Machine, arg: Any) -> None:
    m.pop()


def _drop_marked(m: _Machine, arg: Any) -> None:
    m.marked()


def _put(m: _Machine, arg: Any) -> None:
    index = len(m.memo) if arg is None else arg
    require(0 <= index < m.budget.size, f"memo entry {index} in a file of {m.budget.size} bytes")
    value = m.pop()
    m.stack.append(value)
    m.memo[index] = value
    if isinstance(value, Pending):
        value.slots.append(index)


def _get(m: _Machine, arg: Any) -> None:
    require(arg in m.memo, f"memo entry {arg} is not there")
    m.push(m.memo[arg])


def _append(m: _Machine, arg: Any) -> None:
    value = m.pop()
    m.top(list).append(value)


def _appends(m: _Machine, arg: Any) -> None:
    values = m.marked()
    m.top(list).extend(values)


def _setitem(m: _Machine, arg: Any) -> None:
    value, key = m.pop(), m.pop()
    m.top(dict)[_key(key)] = value


def _setitems(m: _Machine, arg: Any) -> None:
    values = m.marked()
    m.top(dict).update(_pairs(values))


def _additems(m: _Machine, arg: Any) -> None:
    values = m.marked()
    m.top(set).update(map(_key, values))


def _pairs(values: list[Any]) -> dict[Any, Any]:
    require(len(values) % 2 == 0, "a key without a value")
    return {_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}


def _key(value: Any) -> Any:
    """Check a dict key or set member: flat, so that hashing it is fast."""
    flat = isinstance(value, (bool, int, float, str, bytes, type(None), np.generic))
    flat = flat or (isinstance(value, tuple) and all(isinstance(v, (int, float, str, type(None))) for v in value))
    require(flat, f"a key of type {type(value).__name__}")
    return value


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def step(m: _Machine, arg: Any) -> None:
        values = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(values)))

    return step


def _global(m: _Machine, arg: Any) -> None:
    module, _, name = arg.partition(" ")
    _push_name(m, module, name)


def _stack_global(m: _Machine, arg: Any) -> None:
    name, module = m.pop(), m.pop()
    require(isinstance(name, str) and isinstance(module, str), "a name that is not text")
    _push_name(m, module, name)


def _push_name(m: _Machine, module: str, name: str) -> None:
    module = _PYTHON_2.get(module, module)
    word = _CALLED.get((module, name))
    if word is None:
        raise Named(f"{module}.{name}"[:200])
    m.push(Name(word))


def _reduce(m: _Machine, arg: Any) -> None:
    given, name = m.pop(), m.pop()
    known = isinstance(name, Name) and isinstance(given, tuple)
    require(known and name.word in _MADE, "a call of something that is not a function")
    m.push(_MADE[name.word](m.budget, given))


def _encode(budget: Budget, given: tuple[Any, ...]) -> bytes:
    """Bytes as protocols before 3 write them."""
    sound = len(given) == 2 and all(isinstance(g, str) for g in given)
    require(sound and given[1] == "latin1", "bytes not encoded as latin1")
    budget.spend(len(given[0]))
    return given[0].encode("latin1")


def _members(given: tuple[Any, ...]) -> set[Any]:
    require(len(given) <= 1 and all(isinstance(g, list) for g in given), "a set not built from a list")
    return set(map(_key, given[0] if given else ()))


def _no_bytes(budget: Budget, given: tuple[Any, ...]) -> bytes:
    """Empty bytes as protocols before 3 write them."""
    require(len(given) == 0, "bytes of something else")
    return b""


def _ordered(budget: Budget, given: tuple[Any, ...]) -> dict[Any, Any]:
    require(len(given) == 0, "an OrderedDict that does not begin empty")
    return {}


def _default(budget: Budget, given: tuple[Any, ...]) -> dict[Any, Any]:
    require(len(given) <= 1, "a defaultdict that does not begin empty")
    return {}


def _build(m: _Machine, arg: Any) -> None:
    """The state of a dtype or an array."""
    state = m.pop()
    owner = m.pop()
    require(isinstance(state, tuple), "a state that is not a tuple")
    if isinstance(owner, Dtype):
        pickled_arrays.set_order(owner, state)
        m.stack.append(owner)
        return
    require(isinstance(owner, Pending), "a state of an object that has none")
    state = state[1:] if len(state) == 5 and isinstance(state[0], int) else state
    require(len(state) == 4 and isinstance(state[1], Dtype), "an array without a dtype")
    shape, dtype, fortran, raw = state
    if dtype.kind[0] == "O":
        out = pickled_arrays.objects(shape, raw)
    else:
        out = pickled_arrays.array(m.budget, shape, dtype, raw, "F" if fortran is True else "C")
    for index in owner.slots:
        m.memo[index] = out
    m.stack.append(out)


def _check(value: Any, most: int) -> None:
    """Refuse non-plain values, and containers that are nested too deeply, contain themselves, or are shared so often
    that traversing them would never end."""
    known: dict[int, tuple[int, int]] = {}  # container id -> total values in it, nesting depth
    waiting, open_ = [value], set()
    while waiting:
        one = waiting[-1]
        if not isinstance(one, (list, tuple, dict, set, frozenset)):
            require(isinstance(one, (*_SCALAR, np.ndarray)), "a name or an unfinished array as a value")
            known.setdefault(id(one), (one.size if isinstance(one, np.ndarray) else 1, 0))
            waiting.pop()
            continue
        if id(one) in known:
            waiting.pop()
            continue
        inner = list(one.values()) if isinstance(one, dict) else one
        if id(one) not in open_:
            open_.add(id(one))
            for part in inner:
                if id(part) not in known:
                    require(id(part) not in open_, "a container that holds itself")
                    waiting.append(part)
            continue
        open_.discard(id(one))
        waiting.pop()
        count = 1 + len(one) + sum(known[id(part)][0] for part in inner)
        require(count <= most, "containers that hold one another again and again")
        levels = 1 + max((known[id(part)][1] for part in inner), default=0)
        require(levels <= DEEPEST, f"containers over {DEEPEST} levels deep")
        known[id(one)] = count, levels


_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "BINBYTES", "BINBYTES8",
    "SHORT_BINBYTES", "BYTEARRAY8",
}  # fmt: skip
"""Opcodes whose argument is the value."""
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, arg: require(arg <= 5, f"protocol {arg}; write it with protocol 5 or below"),
    "FRAME": lambda m, arg: None,
    "READONLY_BUFFER": lambda m, arg: None,
    "MARK": _mark,
    "POP": _drop,
    "POP_MARK": _drop_marked,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "ADDITEMS": _additems,
    "LIST": lambda m, arg: m.push(m.marked()),
    "TUPLE": lambda m, arg: m.push(tuple(m.marked())),
    "DICT": lambda m, arg: m.push(_pairs(m.marked())),
    "FROZENSET": lambda m, arg: m.push(frozenset(map(_key, m.marked()))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}
_MADE: dict[str, Callable[[Budget, tuple[Any, ...]], Any]] = {
    "encode": _encode,
    "bytes": _no_bytes,
    "set": lambda budget, given: _members(given),
    "frozenset": lambda budget, given: frozenset(_members(given)),
    "ordered": _ordered,
    "default": _default,
    "dtype": pickled_arrays.dtype,
    "reconstruct": pickled_arrays.reconstruct,
    "scalar": pickled_arrays.scalar,
    "frombuffer": pickled_arrays.from_buffer,
}
