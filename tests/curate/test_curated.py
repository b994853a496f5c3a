"""Curation of real clips in a real store."""

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import curate, examine_drive, load_curated, origins_in, save_curated
from drivefoundry.curate.split import SplitRule
from drivefoundry_car.log import cut, write_drive


def clip(make_drive, k, **meta):
    """Clip k: its own pictures, its own speed profile."""
    d = make_drive(steps=100, seed=k, frames=True, place="town")
    d = replace(d, meta={**d.meta, "seed": str(k), **meta})
    ego = d.ego.copy()
    ego[:, 3] = np.linspace(10 - k % 5, 10 + k % 3, 100)
    ego[:, 0] = np.cumsum(ego[:, 3]) * 0.1
    return replace(d, ego=ego)


@pytest.fixture(scope="module")
def landed(tmp_path_factory, make_drive):
    """A store with 8 good clips of 8 seeds, a copy of the first from another car, a short one and one without video."""
    folder = tmp_path_factory.mktemp("clips")
    drives = [clip(make_drive, k) for k in range(8)]
    copy = clip(make_drive, 0, vehicle="car-2")
    drives += [
        replace(copy, takeover=np.arange(100) > 50),
        cut(clip(make_drive, 20), 0, 3),
        replace(clip(make_drive, 21), video=None),
    ]
    paths = []
    for k, d in enumerate(drives):
        paths.append(folder / f"{k:02d}.mcap")
        write_drive(paths[-1], d)
    url = str(folder / "store")
    return url, ClipStore(url).land(paths)


def test_bad_and_double_clips_go_and_say_why(landed):
    url, ids = landed
    done = []
    c = curate(url, ids, on_done=done.append)
    assert sum(done) == len(ids)
    # Of the two that look alike, the one with the takeover stays.
    assert set(c.kept) == {*ids[1:8], ids[8]}
    assert c.dropped == {
        ids[0]: f"near-duplicate of {ids[8]}",
        ids[9]: "too short: 2.9 s, at least 6 s are needed",
        ids[10]: "video is missing",
    }
    assert set(c.split) == set(c.kept)
    assert c.apart == "place"
    assert len(c.weights) == len(c.classes) == len(c.embeddings) == len(c.kept)
    assert dict(zip(c.kept, c.classes, strict=True))[ids[8]] == "takeover"
    assert sorted(c.of("train") + c.of("val") + c.of("held_out")) == sorted(c.kept)


def test_a_later_turn_keeps_what_was_settled(landed):
    url, ids = landed
    first = curate(url, ids[:5])
    later = curate(url, ids, earlier=first)
    assert later.kept[: len(first.kept)] == first.kept
    assert {i: later.split[i] for i in first.kept} == first.split
    assert later.dropped[ids[8]] == f"near-duplicate of {ids[0]}"  # the earlier clip was learnt from already
    again = curate(url, ids, earlier=later)
    assert again.kept == later.kept
    assert again.split == later.split
    np.testing.assert_array_equal(again.weights, later.weights)


def test_clips_of_an_exams_place_are_never_trained_on(landed, make_drive, tmp_path):
    url, ids = landed
    c = curate(url, ids[1:4], rule=SplitRule({ids[0]: "held_out", ids[4]: "held_out"}, shares=(1, 0, 0)))
    assert set(c.of("train")) == set(ids[1:4])
    assert ids[0] not in c.split
    # The exam's clip and this one were recorded in the same place with the same seed.
    path = tmp_path / "more.mcap"
    write_drive(path, clip(make_drive, 4, vehicle="car-3", drive="another"))
    more = ClipStore(url).land([path])
    assert curate(url, more, rule=SplitRule({ids[4]: "held_out"}, shares=(1, 0, 0))).of("train") == []


def test_one_recording_is_split_by_time(tmp_path, make_drive):
    whole = make_drive(steps=600, frames=True)
    ego = whole.ego.copy()
    ego[:, 3] = 10 + 4 * np.sin(np.arange(600) / 80)
    ego[:, 0] = np.cumsum(ego[:, 3]) * 0.1
    whole = replace(whole, ego=ego)
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}.mcap")
        write_drive(paths[-1], cut(whole, 10 * k, 10 * k + 10))
    url = str(tmp_path / "store")
    ids = ClipStore(url).land(paths)
    c = curate(url, ids, rule=SplitRule(shares=(0.8, 0.0, 0.2)), similarity=1.1)
    assert c.apart == "time"
    assert [c.split[i] for i in ids] == ["train"] * 5 + ["held_out"]


def test_saved_and_loaded(landed, tmp_path):
    url, ids = landed
    c = curate(url, ids[:4])
    save_curated(tmp_path / "c", c)
    save_curated(tmp_path / "c", c)
    back = load_curated(tmp_path / "c")
    for name in ("kept", "dropped", "split", "classes", "origins", "apart"):
        assert getattr(back, name) == getattr(c, name)
    np.testing.assert_array_equal(back.embeddings, c.embeddings)
    (tmp_path / "c" / "curated.json").write_text("{}")
    with pytest.raises(ValueError, match="not a complete curation"):
        load_curated(tmp_path / "c")


def test_processes_see_what_one_process_sees(landed):
    url, ids = landed
    one = curate(url, ids, backend="serial")
    drives = ClipStore(url)
    for i in one.kept:
        assert examine_drive(drives.drive(i), i).name == dict(zip(one.kept, one.classes, strict=True))[i]


def test_bad_arguments_are_refused(landed):
    url, ids = landed
    with pytest.raises(ValueError, match="apart: must be auto, place or time"):
        curate(url, ids[:1], rule=SplitRule(apart="luck"))
    with pytest.raises(ValueError, match="clip nowhere: not in"):
        origins_in(url, ["nowhere"])
    assert curate(url, []).kept == []
