"""A ring stays within its bound and keeps the newest items decodable; items lost to a recording are counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.log.video import Encoder, decode, is_key
from drivefoundry_car.recording.ring import ITEM_BYTES, Ring


def of(sizes, bound, start="any", keys=None):
    ring = Ring(bound, start)
    for i, size in enumerate(sizes):
        ring.push(float(i), bytes(size), keys is None or keys[i])
    return ring


@settings(max_examples=150)
@given(
    bound=st.integers(ITEM_BYTES, 10 * ITEM_BYTES),
    items=st.lists(st.tuples(st.integers(0, 800), st.booleans()), max_size=60),
    begun=st.integers(0, 60),
    taken=st.integers(0, 5),
)
def test_never_above_the_bound_and_what_remains_is_the_newest_from_a_key_on(bound, items, begun, taken):
    ring = Ring(bound, "key")
    accepted = []
    for i, (size, key) in enumerate(items):
        if i == begun:
            ring.begin(float(i))
            while taken == 5 and ring.next() < float("inf"):
                ring.take()
        if ring.push(float(i), bytes(size), key):
            accepted.append((float(i), key))
        for _ in range(taken):
            if ring.next() < float("inf"):
                ring.take()
        assert ring.size <= bound
        assert ring.size == sum(len(data) + ITEM_BYTES for _, data, _ in ring.items())
        kept = [(t, key) for t, _, key in ring.items()]
        assert kept == accepted[len(accepted) - len(kept) :]
        assert not kept or kept[0][1]
        # A frame depends on the one before it, back to its key: none is missing between.
        assert all(key or t - 1 == before for (before, _), (t, key) in pairwise(kept))
    if taken == 5:  # the writer keeps up: what was taken in was written
        assert ring.lost + ring.refused == len(items) - len(accepted)


def test_what_is_left_of_a_video_decodes():
    encoder = Encoder(64, 48, 5)
    ring = Ring(20_000, "key")
    rng = np.random.default_rng(0)
    for i in range(60):
        key, packet = encoder.encode(rng.integers(0, 60, (48, 64, 3), dtype="uint8"))
        assert is_key(packet) == key
        ring.push(i * 0.1, packet, key)
    held = ring.items()
    assert 0 < len(held) < 60
    frames = decode([p for _, p, _ in held], np.array([k for *_, k in held]), 64, 48, None)
    assert len(frames) == len(held)


def test_what_cannot_be_kept_is_refused_and_counted():
    ring = Ring(1000)
    assert ring.push(1.0, b"a")
    assert not ring.push(0.9, b"late")
    assert not ring.push(float("nan"), b"no time")
    assert not ring.push(float("inf"), b"no time")
    assert not ring.push(2.0, bytes(1000))
    assert ring.push(3.0, b"b")
    assert ring.refused == 4
    with pytest.raises(ValueError, match="> 0 bytes"):
        Ring(0)


def test_frames_after_a_lost_one_wait_for_the_next_key():
    ring = Ring(1000, "key")
    taken = [ring.push(t, bytes(size), key) for t, size, key in
             ((0, 1, False), (1, 1, True), (2, 900, False), (3, 1, False), (4, 1, True), (5, 1, False))]  # fmt: skip
    assert taken == [False, True, False, False, True, True]
    # A key frame whose followers do not fit beside it goes with them.
    ring = of([100, 300, 300, 1], 900, "key", [True, False, False, False])
    assert len(ring) == 0
    assert ring.refused == 2


@pytest.mark.parametrize(
    ("start", "keys", "at", "first"),
    [
        ("any", [True] * 8, 4.5, 5.0),
        ("held", [True] * 8, 4.5, 4.0),
        ("held", [True] * 8, 4.0, 4.0),
        ("held", [True] * 8, 99.0, 7.0),
        ("key", [True, False] * 4, 4.5, 4.0),
        ("key", [True, False] * 4, 5.0, 4.0),
        ("key", [True, False] * 4, 6.0, 6.0),
        ("key", [True, False] * 4, 99.0, 6.0),
    ],
)
def test_a_recording_begins_with_what_it_hangs_on(start, keys, at, first):
    ring = of([1] * 8, 10_000, start, keys)
    ring.begin(at)
    assert ring.next() == first
    while ring.next() < float("inf"):
        ring.take()
    ring.end()
    assert [t for t, _, _ in ring.items()] == list(range(8))


def test_what_falls_out_before_it_is_written_is_lost():
    ring = Ring(4 * (ITEM_BYTES + 10))
    ring.begin(0.0)
    for i in range(6):
        ring.push(float(i), bytes(10))
    assert ring.lost == 2
    assert ring.next() == 2.0
    ring.end()
    ring.push(6.0, bytes(10))
    assert ring.lost == 2
