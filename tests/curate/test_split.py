import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.clips.importers import scenes_in
from drivefoundry.curate.split import SPLITS, Origin, by_place, by_time, check, groups_of, hold_out, place_of
from handmade import changed, womd, write


def origin(drive="d", place="p/1", route="", t0=0.0, t1=20.0):
    return Origin(drive, place, route, t0, t1)


@st.composite
def clips(draw):
    n = draw(st.integers(1, 40))
    some = st.integers(0, 8)
    return {
        f"clip{i}": origin(
            f"d{draw(some)}", f"p{draw(st.integers(0, 3))}/{draw(some)}", draw(st.sampled_from(["", "r1", "r2"]))
        )
        for i in range(n)
    }


@settings(max_examples=80, deadline=None)
@given(clips(), st.integers(0, 5))
def test_no_key_is_ever_in_two_splits(origins, seed):
    split = by_place(origins, seed=seed)
    assert set(split) == set(origins)
    where = {}
    for i, o in origins.items():
        keys = {("drive", o.drive), ("place", o.place)} | (
            {("route", o.place.split("/")[0], o.route)} if o.route else set()
        )
        for key in keys:
            assert where.setdefault(key, split[i]) == split[i]
    assert split == by_place(dict(reversed(origins.items())), seed=seed)


@settings(max_examples=40, deadline=None)
@given(clips(), st.integers(1, 39))
def test_later_clips_never_move_earlier_ones(origins, cut):
    first = dict(list(origins.items())[:cut])
    settled = by_place(first)
    groups = dict(zip(origins, groups_of(list(origins.values())), strict=True))
    linked = {groups[i]: {settled[j] for j in first if groups[j] == groups[i]} for i in first}
    if all(len(splits) == 1 for splits in linked.values()):
        later = by_place(origins, pinned=settled)
        assert {i: later[i] for i in first} == settled
    else:  # a later clip links what was apart
        with pytest.raises(ValueError, match="split leaks"):
            by_place(origins, pinned=settled)


def test_shares_are_met_where_groups_are_small():
    origins = {f"c{i}": origin(f"d{i}", f"town/{i}") for i in range(200)}
    split = by_place(origins, shares=(0.7, 0.1, 0.2))
    assert [sum(s == name for s in split.values()) for name in SPLITS] == [140, 20, 40]


def test_few_large_groups_train_rather_than_validate():
    origins = {f"{p}{i}": origin(f"{p}{i}", p) for p in "abc" for i in range(25)} | {
        f"x{i}": origin(f"x{i}", "x") for i in range(25)
    }
    split = by_place(origins, pinned={"x0": "held_out"})
    assert {split[f"{p}0"] for p in "abc"} == {"train"}
    assert {split[f"x{i}"] for i in range(25)} == {"held_out"}


def test_groups_link_over_other_clips():
    a, b, c, d = origin("d1", "p/1"), origin("d1", "p/2"), origin("d2", "p/2"), origin("d3", "p/3")
    groups = groups_of([a, b, c, d])
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert groups_of([origin("d1", "p/1", "r"), origin("d2", "p/2", "r")]).tolist() == [0, 0]
    assert len(set(groups_of([origin("d1", "p/1", "r"), origin("d2", "q/2", "r")]))) == 2  # routes are of a place


def test_leaks_are_refused():
    origins = {"a": origin("d1", "p/1"), "b": origin("d1", "p/2")}
    with pytest.raises(ValueError, match="split leaks: drive 'd1' is in train"):
        check(origins, {"a": "train", "b": "held_out"})
    with pytest.raises(ValueError, match="split leaks: clip a is in train and clip b in val"):
        by_place(origins, pinned={"a": "train", "b": "val"})
    with pytest.raises(ValueError, match="split 'test' is not one of"):
        by_place(origins, pinned={"a": "test"})


def test_by_time_holds_out_the_end():
    origins = {f"c{i}": origin(t0=20.0 * i, t1=20.0 * i + 19.9) for i in range(11)}
    split = by_time(origins, held_out=0.2)
    assert [split[f"c{i}"] for i in range(11)] == ["train"] * 9 + ["held_out"] * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 500), st.floats(5, 30)), min_size=2, max_size=30), st.floats(0.05, 0.5))
def test_by_time_never_trains_on_held_out_seconds(spans, share):
    origins = {f"c{i}": origin(t0=a, t1=a + length) for i, (a, length) in enumerate(spans)}
    split = by_time(origins, held_out=share, val=0.1)
    for i, a in origins.items():
        for j, b in origins.items():
            assert split[i] == split[j] or a.t1 <= b.t0 + 1e-5 or b.t1 <= a.t0 + 1e-5


def test_by_time_over_recordings_with_clocks_of_their_own():
    spans = [(0, 20), (20, 40)]
    origins = {f"{d}{k}": origin(drive=d, t0=a, t1=b) for d in "abc" for k, (a, b) in enumerate(spans)}
    split = by_time(origins, held_out=0.2)
    assert [i for i, s in split.items() if s == "held_out"] == ["c1"]
    assert split == by_time(dict(reversed(origins.items())), held_out=0.2)


def test_overlap_in_time_is_a_leak():
    origins = {"a": origin(t0=0, t1=20), "b": origin(t0=15, t1=35)}
    with pytest.raises(ValueError, match=r"clip a \(train\) and clip b \(held_out\) overlap in time"):
        check(origins, {"a": "train", "b": "held_out"}, apart="time")


def test_a_place_names_its_seed_once():
    assert place_of({"place": "town", "seed": "3"}) == "town/3"
    assert place_of({"place": "town/3", "seed": "3"}) == "town/3"
    assert place_of({"map": "m"}) == "m"
    assert place_of({}) == "unknown"


def test_scenes_of_one_recording_or_place_are_never_on_both_sides(tmp_path):
    for n in range(12):
        whole = changed(womd(), ("scenario_id",), f"r{n}")
        for road in whole["roads"]:  # every third recording is another window of the same street
            for point in road["geometry"]:
                point["y"] += 1000.0 * (n // 3)
        for thing in whole["objects"]:
            for point in thing["position"]:
                point["y"] += 1000.0 * (n // 3)
        write(tmp_path / f"{n}.json", whole)
    scenes, refused = scenes_in(tmp_path)
    assert not refused
    assert len(scenes) == 24  # two egos each
    assert len({s.place for s in scenes}) == 4
    origins = {s.id: Origin(s.id, s.place, s.id, 0.0, 9.0) for s in scenes}
    split = by_place(origins, shares=(0.5, 0.25, 0.25))
    assert len(set(split.values())) > 1
    sides = {}
    for s in scenes:
        assert sides.setdefault(int(s.meta["recording"].removeprefix("womd-r")) // 3, split[s.id]) == split[s.id]
    held_out = hold_out([s.place for s in scenes], ["alike"] * len(scenes), np.ones(len(scenes)))
    assert 0 < sum(s.place in held_out for s in scenes) < len(scenes)


def test_a_short_recording_validates_on_its_last_training_clip():
    def clips(*spans):
        return {f"c{k}": Origin("d", "p", "", a, b) for k, (a, b) in enumerate(spans)}

    split = by_time(clips((0, 20), (20, 40), (40, 60), (60, 80), (80, 100)), held_out=0.2, val=0.1)
    assert list(split.values()) == ["train", "train", "train", "val", "held_out"]
    split = by_time(clips((0, 20), (20, 40), (40, 60), (55, 75), (80, 100)), held_out=0.2, val=0.1)
    assert list(split.values()) == [*["train"] * 4, "held_out"], "the two that overlap would leave too few"
    split = by_time(clips((0, 20), (20, 40)), held_out=0.4, val=0.1)
    assert list(split.values()) == ["train", "held_out"], "nothing to spare"
