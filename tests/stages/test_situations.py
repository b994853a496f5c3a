"""Which recorded place is held out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.stages.record import held_out_place


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=60).filter(lambda places: len(set(places)) > 1))
def test_the_smallest_place_with_a_tenth_of_all_scenes_is_held_out(places):
    held, counts = held_out_place(places), Counter(places)
    assert held in counts
    enough = [p for p in counts if counts[p] >= len(places) / 10]
    assert counts[held] == min(counts[p] for p in enough)
    assert held_out_place(places[::-1]) == held


def test_one_place_cannot_be_held_out():
    with pytest.raises(ValueError, match="all scenes are of one place"):
        held_out_place(["a", "a"])
