"""Pickles of plain data are read without executing them."""

import collections
import contextlib
import pickle
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drivefoundry.clips.importers.traffic import pickles

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
KEYS = st.one_of(TEXT, st.integers(-5, 5), st.tuples(TEXT, TEXT, st.integers(0, 3)))
DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.byte_string_dtypes(min_len=1, max_len=9),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=9),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXT, st.binary(max_size=20),
    hnp.arrays(DTYPES, ()).map(lambda a: a[()]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(SCALARS, ARRAYS, ARRAYS.map(np.asfortranarray), ARRAYS.map(lambda a: a[..., ::2] if a.ndim else a)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
        inner.map(lambda v: [v, v, {"again": v}]),
    ),
    max_leaves=20,
)


def same(a, b):
    """Equal values of equal kinds, arrays in the machine's byte order; NaN equals itself."""
    if isinstance(b, np.ndarray | np.generic):
        equal = np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
        return type(a) is type(b) and a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and equal
    if isinstance(b, dict):
        return isinstance(a, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(max_examples=300, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_what_python_writes_is_read(value, protocol):
    data = pickle.dumps(value, protocol)
    assert same(pickles.load(data), pickle.loads(data))


@settings(max_examples=400, deadline=None)
@given(VALUES, st.integers(0, 5), st.data())
def test_damaged_pickles_are_refused_or_read(value, protocol, data):
    raw = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        how = data.draw(st.sampled_from(["change", "cut", "double", "end", "insert"]))
        some = data.draw(st.integers(1, 12))
        if how == "change" and raw:
            raw[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del raw[at : at + some]
        elif how == "double":
            raw[at:at] = raw[at : at + some]
        elif how == "end":
            del raw[at:]
        else:
            raw[at:at] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(ValueError):
        use(pickles.load(bytes(raw)))


def use(value):
    """Access every value, which reveals arrays over missing bytes and invalid text."""
    if isinstance(value, dict | list | tuple | set | frozenset):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            use(part)
    elif isinstance(value, np.ndarray):
        value.tolist()
    else:
        repr(value)


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_both_names_of_numpys_core(core, protocol):
    data = pickle.dumps({"a": np.arange(6.0).reshape(2, 3), "b": np.float32(2.5)}, protocol)
    own = b"numpy._core" if b"numpy._core" in data else b"numpy.core"
    other = f"numpy.{core}".encode()
    if protocol < 4:
        data = data.replace(own, other)
    else:  # the length of a name stands before it, the length of the frame before all
        for end in (b".multiarray", b".numeric"):
            old, new = own + end, other + end
            data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
        data = data[:2] + data[11:]
    value = pickles.load(data)
    assert value["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert value["b"] == 2.5


def test_arrays_of_objects_become_lists():
    assert pickles.load(pickle.dumps({"a": np.array(["x", None, 3], object)})) == {"a": ["x", None, 3]}


def array(dtype, state, raw=b"\0" * 16, shape=(2,)):
    """The opcodes of an array whose dtype has that name and that state."""
    parts = [pickle.dumps(p, 2)[2:-1] for p in (shape, dtype, state, raw)]
    make = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    dt = b"cnumpy\ndtype\n" + parts[1] + b"\x89\x88\x87R" + parts[2] + b"b"
    return b"\x80\x02" + make + b"(K\x01" + parts[0] + dt + b"\x89" + parts[3] + b"tb."


PLAIN = (3, "<", None, None, None, -1, -1, 0)


def test_an_array_by_hand():
    assert pickles.load(array("f8", PLAIN)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (array("V8", PLAIN), "an array of 'V8'"),
        (array("f8", (3, "|", None, ("a",), {"a": (1, 1 << 30)}, 8, 1, 16)), "fields, subarrays or metadata"),
        (array("f8", (3, "<", (1, (4,)), None, None, -1, -1, 0)), "fields, subarrays or metadata"),
        (array("f8", (4, "<", None, None, None, -1, -1, 0, {})), "fields, subarrays or metadata"),
        (array("f8", (3, "<", None, None, None, 1 << 20, -1, 0)), "a number with a size of its own"),
        (array("U2", (3, "<", None, None, None, 1 << 20, 4, 8)), "text of 1048576 bytes where its name says 8"),
        (array("O8", PLAIN), "an array of objects that is not a flat list"),
        (array("M8[ns]", PLAIN), "an array of 'M8"),
        (array("f8", PLAIN, shape=(3,)), "an array of 3 values in 16 bytes"),
        (array("f8", PLAIN, shape=(1 << 62, 4)), "values in 16 bytes"),
        (array("f8", PLAIN, shape=(-2, -1)), "not a tuple of sizes"),
        (array("f8", PLAIN, raw=b"", shape=(1 << 40, 0)), "sides longer than the file"),
        (array("U2", (3, "<", None, None, None, 8, 4, 8), raw=b"\xff" * 16), "text with no such characters"),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "memo entry 2147483647 in a file of 9 bytes"),
        (b"\x80\x04h\x05.", "memo entry 5 is not there"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\x80\x04Pname\n.", "opcode PERSID"),
        (b"\x80\x04(cos\nsystem\no.", "os.system"),
        (b"\x80\x04\x82\x01.", "opcode EXT1"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x02]q\0h\0a.", "a container that holds itself"),
        (b"\x80\x02" + b"(" * 2000 + b"l" * 2000 + b".", "levels deep"),
        (b"\x80\x02cnumpy\ndtype\n.", "a name or an unfinished array as a value"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "."),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "."),
        (b"\x80\x02\x8b\x00\x01\x00\x00" + b"\x7f" * 256 + b".", "an integer of over 512 bits"),
        (b"\x80\x04\x8c\x03\xed\xa0\x80.", "surrogates"),
        (b"N", "."),
        (b"", "."),
    ],
)
def test_data_that_is_not_plain_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        pickles.load(data)


def test_containers_that_hold_one_another_do_not_multiply():
    few = [0.0] * 2
    for _ in range(50):
        few = [few, few]
    with pytest.raises(ValueError, match="hold one another again and again"):
        pickles.load(pickle.dumps(few))
    key = ("a", "b")
    for _ in range(50):
        key = (key, key)
    data = pickle.dumps(key)
    with pytest.raises(ValueError, match="a key of type tuple"):
        pickles.load(b"\x80\x04}" + data[11:-1] + b"Ns.")


def test_arrays_of_the_same_bytes_do_not_multiply():
    dtype = b"cnumpy\ndtype\nX\x02\0\0\0b1\x89\x88\x87Rq\x71"
    head = b"\x80\x02" + pickle.dumps(b"\1" * (1 << 20), 3)[2:-3] + b"q\x700" + dtype + b"0"
    make = b"cnumpy._core.numeric\n_frombuffer\nq\x720"
    each = b"hr(hphqJ\0\0\x10\0\x85X\x01\0\0\0CtR0"
    assert pickles.load(head + make + each + b"N.") is None
    with pytest.raises(ValueError, match="made of the same bytes again and again"):
        pickles.load(head + make + each * 5000 + b"N.")


def test_nothing_is_warned_of_and_no_name_is_looked_up():
    before = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(pickles.Named, match=r"antigravity\.x"):
            pickles.load(b"S'\\q'\n0cantigravity\nx\n.")
    assert "antigravity" not in set(sys.modules) - before
