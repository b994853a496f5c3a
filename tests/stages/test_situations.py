"""Which recorded places are held out, and that the resulting exam resembles its source."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.curate.split import MOST, hold_out
from drivefoundry.judge.difficulty import Difficulty, compared, difficulty, likeness, motion
from drivefoundry.stages.record import RecordedTraffic
from drivefoundry.types import AGENT_CAR
from situation import EAST, situation, straight

SCENES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["easy", "hard"]), st.floats(0, 1)), min_size=4, max_size=80
)


@settings(max_examples=60, deadline=None)
@given(SCENES.filter(lambda scenes: len({place for place, *_ in scenes}) > 1), st.randoms(use_true_random=False))
def test_at_least_a_tenth_is_held_out_in_whole_places_in_any_order(scenes, random):
    places, strata, scores = (list(column) for column in zip(*scenes, strict=True))
    held = hold_out(places, strata, np.array(scores))
    count = sum(place in held for place in places)
    assert len(scenes) / 10 <= count < len(scenes)
    if count > MOST * len(scenes) / 10:  # a single place that is larger than that
        assert len(held) == 1 or max(places.count(p) for p in set(places)) > len(scenes) / 20
    random.shuffle(scenes)
    places, strata, scores = (list(column) for column in zip(*scenes, strict=True))
    assert hold_out(places, strata, np.array(scores)) == held


@pytest.mark.parametrize("seed", range(5))
def test_an_exam_is_as_hard_as_its_source(seed):
    """Places differ in difficulty, so an exam chosen by name could have any difficulty."""
    rng = np.random.default_rng(seed)
    places, strata, scores = [], [], []
    for place in range(60):
        hard = rng.beta(0.4, 0.4)
        for _ in range(int(rng.integers(1, 8))):
            level = rng.random() < hard
            places.append(f"place-{place}")
            strata.append("hard" if level else "easy")
            scores.append(rng.uniform(0.0, 0.3) if level else rng.uniform(0.7, 1.0))
    held = hold_out(places, strata, np.array(scores))
    inside = np.isin(places, held)
    whole = np.array(scores).mean()
    alone = [np.array(scores)[np.array(places) == p].mean() for p in sorted(set(places))]
    assert max(abs(a - whole) for a in alone) > 0.3, "places that are all alike prove nothing"
    assert abs(np.array(scores)[inside].mean() - whole) < 0.03
    assert abs((np.array(strata)[inside] == "hard").mean() - (np.array(strata) == "hard").mean()) < 0.05
    assert 0.1 <= inside.mean() < 0.2


def test_one_place_cannot_be_held_out():
    with pytest.raises(ValueError, match="all scenes are of one place"):
        hold_out(["a", "a"], ["easy", "easy"], np.ones(2))


def test_difficulty_is_what_constant_velocity_makes_of_a_scene():
    bend = straight(-60.0, EAST, 0.0, 5.0)
    turn = np.clip((bend[:, 0] + 40.0) / 20.0, 0.0, 1.0)
    bend[:, 2] = turn
    scenes = [
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
        situation(straight(-60.0, EAST, 0.0, 8.0), [(AGENT_CAR, straight(-38.0, EAST, 0.0, 0.0))], name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 0.0), name="parked"),
        situation(bend, name="bend"),
    ]
    found = difficulty(scenes)
    assert found.score[0] > 0.7 > found.score[1]
    assert [motion(s) for s in scenes] == ["goes straight", "goes straight", "stands", "turns"]
    assert found.stratum[0] == "easy, goes straight"
    assert not found.stratum[1].startswith("easy")


def test_the_exam_is_described_beside_its_source():
    scenes = [situation(straight(-60.0, EAST, 0.0, 8.0), name=f"{i}") for i in range(4)]
    for scene, place in zip(scenes, "aabc", strict=True):
        object.__setattr__(scene, "place", place)
    table = compared(scenes, Difficulty(np.array([1.0, 0.5, 0.0, 0.5]), ["e", "h", "h", "h"]), ["a"])
    assert table["scenes"] == {"exam": 2, "source": 4}
    assert table["places"] == {"exam": 1, "source": 3}
    assert table["constant_velocity_score"] == {"exam": 0.75, "source": 0.5}
    assert (table["e"], table["h"]) == ({"exam": 0.5, "source": 0.25}, {"exam": 0.5, "source": 0.75})
    assert likeness(table) == (
        "The exam has 2 of 4 scenes, from 2 of 4 recordings; constant velocity scores 0.75 there and 0.50 on all "
        "scenes."
    )


def source_of(scenes, held_out):
    """Recorded traffic whose files have been read."""
    source = RecordedTraffic.__new__(RecordedTraffic)
    vars(source).update(read=(scenes, {}, 0), held_out=held_out)
    return source


def of(place, recording, name):
    return replace(situation(straight(-60.0, EAST, 0.0, 5.0), name=name), place=place, meta={"recording": recording})


@pytest.mark.parametrize("places", [2, 3, 5])
def test_no_recording_trains_and_validates(places):
    scenes = [of(f"p{p}", f"p{p}-r{r}", f"p{p}-r{r}-{k}") for p in range(places) for r in range(4) for k in range(3)]
    source = source_of(scenes, ["p0"])
    parts = {split: source._scenes(split) for split in ("train", "val", "held_out")}
    assert sum(map(len, parts.values())) == len(scenes)
    assert {s.place for s in parts["held_out"]} == {"p0"}
    recordings = {split: {s.meta["recording"] for s in some} for split, some in parts.items()}
    assert not recordings["train"] & recordings["val"]
    assert 0.1 * (len(scenes) - 12) <= len(parts["val"]) < len(parts["train"])
    if places > 3:
        assert not {s.place for s in parts["train"]} & {s.place for s in parts["val"]}, "whole places, where there are"
    assert source_of(scenes[::-1], ["p0"]).val == source.val, "whatever the order of files"


def test_one_recording_alone_does_not_validate():
    scenes = [of("p0", "a", "a"), of("p1", "b", "b-1"), of("p1", "b", "b-2")]
    source = source_of(scenes, ["p0"])
    assert source.val == []
    assert [s.id for s in source._scenes("train")] == ["b-1", "b-2"]
    source.likeness = ""
    assert any("No validation samples" in line for line in source.lacks())


def test_recordings_that_overlap_are_on_one_side():
    """As NGSIM's files in CommonRoad do: the same vehicles, from another origin and a second on."""
    steps, rng = np.arange(140), np.random.default_rng(0)

    def recording(name, speeds, x, later):
        way = np.cumsum(speeds * 0.1)
        track = np.column_stack([way, np.full(len(way), EAST), np.zeros(len(way)), speeds])[later + steps]
        track[:, 0] += x - track[0, 0] + way[later]
        return replace(situation(track, name=name), place="p1", meta={"recording": name})

    speeds = {name: 8.0 + np.cumsum(rng.uniform(-0.2, 0.2, 160)) for name in "abc"}
    scenes = [recording(f"{name}{later}", speeds[name], -60.0 - later, later) for name in "abc" for later in (0, 10)]
    for order in (scenes, scenes[::-1]):
        source = source_of(order, [])
        assert source.val
        assert {name[0] for name in source.val}.isdisjoint(s.id[0] for s in source._scenes("train"))
        assert len(source.val) == 2


def test_the_larger_of_two_recordings_trains():
    for large in "ab":
        scenes = [of("p0", r, f"{r}-{k}") for r in "ab" for k in range(6 if r == large else 2)]
        assert source_of(scenes, []).val == ["b" if large == "a" else "a"]
