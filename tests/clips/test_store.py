"""Clips are stored once, in batches, and read back unchanged; objects are verified."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction

import av
import numpy as np
import pytest

from drivefoundry.clips.objects import ObjectStore
from drivefoundry.clips.store import NAMED, SCHEMA, ClipStore
from drivefoundry_car.log import decode_video, read_drive, write_drive
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.recording.recorder import Recorder


def same(a, b):
    if is_dataclass(a):
        for f in fields(a):
            same(getattr(a, f.name), getattr(b, f.name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.fixture(scope="module")
def files(make_drive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(4):
        write_drive(folder / f"{i}.mcap", make_drive(steps=40, seed=i, frames=i < 2, campaign="takeover"))
    return [folder / f"{i}.mcap" for i in range(4)]


def test_a_clip_comes_back_as_recorded(files, tmp_path):
    store = ClipStore(str(tmp_path))
    ids = store.land(files)
    assert ids == [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    assert store.ids() == ids
    for clip, file in zip(ids, files, strict=True):
        same(store.drive(clip), read_drive(file))
    same(store.drive(ids[0], video=False), read_drive(files[0], video=False))
    same(ClipStore(str(tmp_path)).drive(ids[3]), read_drive(files[3]))


def test_all_cameras_of_a_car_land_and_jpeg_becomes_video(make_drive, tmp_path):
    drive = make_drive(steps=30, frames=True)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 160, 64, "yuvj420p", Fraction(1, 10)
    encoder.thread_count = 1
    shown = [av.VideoFrame.from_ndarray(f, format="rgb24") for f in decode_video(drive.video)]
    jpegs = [bytes(encoder.encode(f.reformat(format="yuvj420p"))[0]) for f in shown]
    front = replace(drive.video, packets=jpegs, key=np.ones(30, bool), format="jpeg")
    drive = replace(drive, video=front, others={"left": replace(drive.video, yaw=1.5), "rear": replace(front, yaw=3.0)})
    write_drive(tmp_path / "a.mcap", drive)
    store = ClipStore(tmp_path / "store")
    (clip,) = store.land([tmp_path / "a.mcap"])
    back = store.drive(clip)
    same(back.others["left"], drive.others["left"])
    assert back.video.format == back.others["rear"].format == "h264"
    assert (sorted(back.others), back.others["rear"].yaw) == (["left", "rear"], 3.0)
    some = np.array([17, 4])
    was, now = (decode_video(v, some).astype(int) for v in (front, back.others["rear"]))
    assert np.abs(was - now).mean() < 6
    assert store.drive(clip, video=False).others == {}


def test_what_a_running_car_recorded_lands_like_any_clip(make_drive, tmp_path):
    drive = make_drive(steps=300, frames=True)
    v = drive.video
    camera = Camera(v.width, v.height, v.intrinsics, v.mount)
    with Recorder(tmp_path / "car", {"front": camera, "rear": camera}, drive.meta) as recording:
        for i, t in enumerate(drive.t.tolist()):
            recording.push_ego(t, drive.ego[i])
            for name in ("front", "rear"):
                recording.push(name, t, v.packets[i])
        recording.trigger("takeover", 15.0, "takeover rising")
    (file,) = (tmp_path / "car").iterdir()
    store = ClipStore(tmp_path / "store")
    (clip,) = store.land([file])
    same(store.drive(clip), read_drive(file))
    assert store.rows(["campaign", "frames"]).to_pylist() == [{"campaign": "takeover", "frames": 200}]


def test_what_a_drive_lacks_stays_lacking(make_drive, tmp_path):
    bare = make_drive(steps=5)
    lacking = {f.name: None for f in fields(bare) if getattr(bare, f.name) is not None and f.default is None}
    bare = replace(bare, **lacking)
    write_drive(tmp_path / "a.mcap", bare)
    store = ClipStore(tmp_path / "store")
    same(store.drive(store.land([tmp_path / "a.mcap"])[0]), bare)


def test_the_same_clip_twice_is_one_row(files, tmp_path):
    store = ClipStore(tmp_path)
    assert (store.version, store.ids(), store.rows().num_rows) == (0, [], 0)
    first = store.land([files[0], files[0], files[1]])
    assert first[0] == first[1]
    assert len(store.ids()) == 2
    version = store.version
    assert store.land(files[:2]) == first[1:]
    assert store.version == version
    store.land(files)
    assert len(store.ids()) == 4
    assert store.version > version


def test_two_stores_that_land_the_same_clips_at_once(files, tmp_path):
    stores = [ClipStore(tmp_path) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda s: s.land(files), stores))
    assert len(ClipStore(tmp_path).ids()) == 4
    assert all(set(s.ids()) == set(stores[0].ids()) for s in stores)


def test_columns(files, tmp_path):
    store = ClipStore(tmp_path)
    store.land(files[:3])
    row = store.rows().to_pylist()[0]
    assert set(row) == set(SCHEMA.names)
    assert {n: row[n] for n in NAMED if row[n]} == {
        "vehicle": "car-1",
        "drive": "drive-0",
        "source": "test",
        "place": "test-0",
        "campaign": "takeover",
        "map": "m" * 64,
    }
    assert (row["t0"], row["duration"], row["frames"]) == (0.0, pytest.approx(3.9), 40)
    assert row["bytes"] == files[0].stat().st_size
    assert store.rows(["id", "frames"])["frames"].to_pylist() == [40, 40, 0]
    with pytest.raises(ValueError, match="no column 'nope'"):
        store.rows(["nope"])


def test_nothing_lands_when_one_file_is_damaged(files, tmp_path):
    store = ClipStore(tmp_path / "store")
    short = tmp_path / "short.mcap"
    short.write_bytes(files[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"short\.mcap: truncated MCAP"):
        store.land([files[1], short])
    assert store.ids() == []


def test_unknown_clips_and_maps_are_refused(tmp_path):
    store = ClipStore(tmp_path)
    with pytest.raises(ValueError, match="clip abc: not in"):
        store.drive("abc")
    with pytest.raises(ValueError, match="name 'maps/abc': not in"):
        store.get_map("abc")
    store.put_map("abc", b"one")
    store.put_map("abc", b"another")
    assert store.get_map("abc") == b"another"
    with pytest.raises(ValueError, match="letters, digits"):
        store.put_map("../abc", b"one")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_objects_are_kept_by_their_hash(tmp_path, form):
    objects = ObjectStore(form.format(tmp_path))
    sha = objects.put(b"bytes")
    assert sha == hashlib.sha256(b"bytes").hexdigest()
    assert (tmp_path / sha[:2] / sha[2:4] / sha).read_bytes() == b"bytes"
    assert objects.put(b"bytes") == sha
    assert objects.get(sha) == b"bytes"
    assert objects.has(sha)
    assert not objects.has("0" * 64)
    with pytest.raises(ValueError, match="not in"):
        objects.get("0" * 64)
    with pytest.raises(ValueError, match="not a SHA-256"):
        objects.get("../../etc/passwd")


def test_a_damaged_object_is_refused(tmp_path):
    objects = ObjectStore(tmp_path)
    sha = objects.put(b"bytes")
    (tmp_path / sha[:2] / sha[2:4] / sha).write_bytes(b"bytez")
    with pytest.raises(ValueError, match="damaged"):
        objects.get(sha)


def test_an_object_store_of_no_known_kind_is_refused():
    with pytest.raises(ValueError, match="object store ftp://x"):
        ObjectStore("ftp://x")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"object store .*file/x/objects"):
        ClipStore(tmp_path / "file" / "x")
