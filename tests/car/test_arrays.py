"""Containers whose bytes depend only on their arrays."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drivefoundry_car import arrays

SMALL = {
    "points": np.arange(12, dtype=np.float32).reshape(4, 3),
    "valid": np.array([True, False, True]),
    "frames": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "steps": np.array([[3, -1], [2, 7]], np.int64),
    "none": np.zeros((0, 2)),
    "gain": np.array(0.5),
}
SMALL_SHA256 = "c9bf82ef908b6f42470b1960a8175973cdd347ea5cfec8d26aafe01c44867dd7"
"""Of a file written once: a later version of a library that lays out files otherwise would change every id."""


def test_bytes_are_those_of_the_stored_file():
    assert hashlib.sha256(arrays.to_bytes(SMALL)).hexdigest() == SMALL_SHA256


def test_bytes_do_not_depend_on_insertion_memory_or_byte_order():
    backwards = dict(reversed(SMALL.items()))
    fortran = {name: np.asfortranarray(a) if a.ndim else a for name, a in SMALL.items()}
    strided = {name: np.repeat(a, 2, axis=0)[::2] if a.ndim else a for name, a in SMALL.items()}
    big_endian = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in SMALL.items()}
    assert big_endian["points"].tobytes() != SMALL["points"].tobytes()
    assert fortran["points"].tobytes("A") != SMALL["points"].tobytes("A")
    for same in (backwards, fortran, strided, big_endian):
        assert arrays.to_bytes(same) == arrays.to_bytes(SMALL)


def test_other_values_types_shapes_and_names_give_other_bytes():
    others = [
        SMALL | {"points": SMALL["points"] + 1},
        SMALL | {"points": SMALL["points"].reshape(3, 4)},
        SMALL | {"points": SMALL["points"].astype(np.int32)},
        {("point" if name == "points" else name): a for name, a in SMALL.items()},
    ]
    assert len({arrays.to_bytes(a) for a in (SMALL, *others)}) == 5


KINDS = ("?", "u1", "i1", "<u2", ">i2", "<u4", ">i4", "<u8", "<i8", "<f2", ">f4", "<f8")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(KINDS).flatmap(
            lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, min_side=0))
        ),
        max_size=4,
    ).filter(lambda named: "__metadata__" not in named)
)
def test_what_is_written_is_read(tmp_path_factory, named):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    arrays.write(path, named)
    for back in (arrays.read(path), arrays.mapped(path)):
        assert list(back) == sorted(named)
        for name, array in named.items():
            assert back[name].dtype == array.dtype.newbyteorder("<")
            np.testing.assert_array_equal(back[name], array)


def test_read_arrays_can_be_changed_and_mapped_ones_cannot(tmp_path):
    arrays.write(tmp_path / "x", SMALL)
    arrays.read(tmp_path / "x")["points"][:] = 0
    with pytest.raises(ValueError, match="read-only"):
        arrays.mapped(tmp_path / "x")["points"][:] = 0


@pytest.mark.parametrize("load", [arrays.read, arrays.mapped])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"PK\x03\x04" * 9,
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:20],
        lambda data: data.replace(b'"F32"', b'"F99"'),
        lambda data: data.replace(b'"F32"', b'"BF16"').replace(b"}}  ", b"}} "),
        lambda data: data.replace(b"[4,3]", b"[4,4]"),
    ],
)
def test_damaged_files_are_refused_by_name(load, spoil, tmp_path):
    (tmp_path / "x").write_bytes(spoil(arrays.to_bytes(SMALL)))
    with pytest.raises(ValueError, match=f"{tmp_path}/x: .*make it again") as refused:
        load(tmp_path / "x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("load", [arrays.read, arrays.mapped])
def test_a_missing_array_or_file_is_named(load, tmp_path):
    arrays.write(tmp_path / "x", SMALL)
    with pytest.raises(ValueError, match="x: has no array 'ego'; record it again"):
        load(tmp_path / "x", ["points", "ego"], "record it again")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
