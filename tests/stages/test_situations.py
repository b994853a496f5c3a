"""Which recorded place is held out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.stages.record import held_out_places


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=60).filter(lambda places: len(set(places)) > 1))
def test_the_smallest_place_with_a_tenth_of_all_scenes_is_held_out(places):
    (held,), counts = held_out_places(places), Counter(places)
    assert held in counts
    enough = [p for p in counts if counts[p] >= len(places) / 10]
    assert counts[held] == min(counts[p] for p in enough)
    assert held_out_places(places[::-1]) == [held]


@given(st.lists(st.integers(1, 3), min_size=31, max_size=60))
def test_of_many_small_places_a_tenth_of_the_scenes_is_held_out(sizes):
    places = [f"place-{i}" for i, size in enumerate(sizes) for _ in range(size)]
    held, counts = held_out_places(places), Counter(places)
    assert len(places) / 10 <= sum(counts[p] for p in held) < len(places) / 10 + 3
    assert held_out_places(places[::-1]) == held


def test_one_place_cannot_be_held_out():
    with pytest.raises(ValueError, match="all scenes are of one place"):
        held_out_places(["a", "a"])
