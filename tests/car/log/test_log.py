"""Drives go to MCAP and back; damaged files are refused in one line."""

from __future__ import annotations

import io
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mcap.reader import make_reader
from mcap.writer import Writer
from mcap_protobuf.decoder import DecoderFactory

from drivefoundry_car import log


def same(a, b, path="drive"):
    """Whether values and dtype kinds are equal, NaN equal to NaN; names the path that differs."""
    if is_dataclass(a):
        for f in fields(a):
            same(getattr(a, f.name), getattr(b, f.name), f"{path}.{f.name}")
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray), path
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=path)
    else:
        assert a == b, path


def test_a_drive_is_read_back_unchanged(make_drive, tmp_path):
    drive = make_drive(steps=55, frames=True)
    drive.ego[3, 6] = np.nan
    drive.objects.valid[0, 10:20] = False
    drive.objects.states[0, 10:20] = 0
    drive.signal_state[1, 30:] = 3
    drive.takeover[40:43] = True
    log.write_drive(tmp_path / "a.mcap", drive)
    same(drive, log.read_drive(tmp_path / "a.mcap"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mcap"]


def test_states_that_are_no_numbers_of_metres_are_refused(make_drive, tmp_path):
    drive = make_drive(steps=55)
    huge = drive.objects.states.astype(np.float64)
    huge[0, 20, 0] = 1e300  # finite in the file, not in a Drive
    log.write_drive(tmp_path / "a.mcap", replace(drive, objects=replace(drive.objects, states=huge)))
    with pytest.raises(ValueError, match="objects: states must be finite where valid"):
        log.read_drive(tmp_path / "a.mcap")
    drive.objects.states[0, 20, 1] = np.nan
    with pytest.raises(ValueError, match="objects: states must be finite where valid"):
        log.check(drive)
    drive.objects.valid[0, 20] = False
    log.check(drive)


def test_what_a_drive_lacks_stays_lacking(tmp_path):
    bare = log.Drive({"vehicle": "v"}, np.array([0.0, 0.1]), np.zeros((2, 7)))
    log.write_drive(tmp_path / "a.mcap", bare)
    same(bare, log.read_drive(tmp_path / "a.mcap"))


def test_without_video_everything_else_is_read(make_drive, tmp_path):
    drive = make_drive(steps=20, frames=True)
    log.write_drive(tmp_path / "a.mcap", drive)
    same(replace(drive, video=None), log.read_drive(tmp_path / "a.mcap", video=False))


_float = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_arrays_come_back_bit_for_bit(tmp_path, data):
    steps, tracks = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 4))
    t = data.draw(st.floats(0, 1e5)) + np.arange(steps) * 0.1
    ego = data.draw(
        hnp.arrays(np.float64, (steps, 7), elements=st.floats(allow_nan=False, allow_infinity=False, width=64))
    )
    valid = data.draw(hnp.arrays(np.bool_, (tracks, steps)))
    states = data.draw(hnp.arrays(np.float32, (tracks, steps, 4), elements=_float))
    states[..., 2] = data.draw(hnp.arrays(np.float32, (tracks, steps), elements=st.floats(-3.125, 3.125, width=32)))
    states[~valid] = 0
    size = data.draw(hnp.arrays(np.float32, (tracks, 3), elements=st.floats(0.125, 20, width=32)))
    kind = data.draw(hnp.arrays(np.int64, tracks, elements=st.integers(0, 3)))
    name = st.text(max_size=8)
    drive = log.Drive(
        meta=data.draw(st.dictionaries(name, name, max_size=3)),
        t=t,
        ego=ego,
        objects=log.Objects(np.arange(tracks) * 17, kind, size, states, valid),
        engaged=data.draw(st.none() | hnp.arrays(np.bool_, steps)),
        takeover=data.draw(st.none() | hnp.arrays(np.bool_, steps)),
        plan=log.Plans(t[:1], data.draw(hnp.arrays(np.float32, (1, 8, 3), elements=_float)), [data.draw(name)]),
    )
    log.write_drive(tmp_path / "h.mcap", drive)
    same(drive, log.read_drive(tmp_path / "h.mcap"))


def test_foxglove_reads_it_by_its_own_schemas(make_drive, tmp_path):
    drive = make_drive(steps=12, frames=True)
    log.write_drive(tmp_path / "a.mcap", drive)
    reader = make_reader(io.BytesIO((tmp_path / "a.mcap").read_bytes()), decoder_factories=[DecoderFactory()])
    summary = reader.get_summary()
    names = {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()}
    assert names["/camera/front"] == "foxglove.CompressedVideo"
    assert names["/objects"] == "foxglove.SceneUpdate"
    scene = [m for *_, m in reader.iter_decoded_messages(topics=["/objects"])][3]
    cube = scene.entities[0].cubes[0]
    assert cube.pose.position.x == pytest.approx(33.0)
    assert (scene.entities[0].id, scene.entities[0].metadata[0].value, cube.size.x) == ("7", "car", pytest.approx(4.6))
    assert summary.chunk_indexes
    assert summary.chunk_indexes[0].compression == "zstd"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(make_drive, tmp_path, share):
    path = tmp_path / "a.mcap"
    log.write_drive(path, make_drive(steps=30))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"a\.mcap: truncated MCAP.*repair it with `mcap recover`$"):
        log.read_drive(path)


def test_a_file_with_its_middle_cut_out_is_refused(make_drive, tmp_path):
    path = tmp_path / "a.mcap"
    log.write_drive(path, make_drive(steps=30))
    data = path.read_bytes()
    path.write_bytes(data[:200] + data[-200:])
    with pytest.raises(ValueError, match=r"a\.mcap: damaged MCAP"):
        log.read_drive(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_flipped_byte_never_goes_unnoticed_as_another_error(make_drive, tmp_path, place, flip):
    path = tmp_path / "a.mcap"
    if not path.exists():
        log.write_drive(path, make_drive(steps=30))
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= flip
    damaged = tmp_path / "b.mcap"
    damaged.write_bytes(data)
    refusal = f"{damaged}: "
    try:
        log.read_drive(damaged)  # bytes that carry nothing (the library's name, offsets nobody needs) may change
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith(f"{damaged}: ")
    assert "\n" not in refusal


def test_missing_foreign_and_driveless_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        log.read_drive(tmp_path / "none.mcap")
    (tmp_path / "text.mcap").write_text("hello")
    with pytest.raises(ValueError, match="not an MCAP file"):
        log.read_drive(tmp_path / "text.mcap")
    with (tmp_path / "empty.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.finish()
    with pytest.raises(ValueError, match="no /ego/state channel"):
        log.read_drive(tmp_path / "empty.mcap")


def test_a_drive_that_does_not_fit_itself_is_not_written(make_drive, tmp_path):
    drive = make_drive(steps=20)
    for field, bad in (
        ("t", drive.t[::-1]),
        ("ego", drive.ego[:5]),
        ("engaged", drive.engaged[:5]),
        ("signal_id", None),
    ):
        with pytest.raises(ValueError, match=r"^Drive\."):
            log.write_drive(tmp_path / "a.mcap", replace(drive, **{field: bad}))
    assert not list(tmp_path.iterdir())


def test_a_cut_holds_its_window_and_the_key_frame_before(make_drive):
    drive = make_drive(steps=300, frames=True)
    part = log.cut(drive, 7.3, 17.3)
    assert (part.t[0], part.t[-1], len(part.t)) == (pytest.approx(7.3), pytest.approx(17.2), 100)
    assert part.video.key[0]
    assert part.video.t[0] == pytest.approx(7.0)
    assert part.video.t[-1] == pytest.approx(17.2)
    assert part.objects.states.shape == (2, 100, 4)
    assert part.plan.t.min() >= 7.3
    assert len(part.plan.t) == len(part.plan.text) == len(part.plan.points) == 20
    whole = log.decode_video(drive.video)
    np.testing.assert_array_equal(log.decode_video(part.video), whole[70:173])
    with pytest.raises(ValueError, match="no samples"):
        log.cut(drive, 100, 120)


def test_a_cut_leaves_out_tracks_it_never_sees(make_drive):
    drive = make_drive(steps=100)
    drive.objects.valid[0, 50:] = False
    assert log.cut(drive, 5, 10).objects.track.tolist() == [9]


def test_video_decodes_close_to_what_was_encoded(make_drive):
    frames = np.zeros((25, 64, 160, 3), np.uint8)
    frames[:, :, :80] = (200, 40, 40)
    frames[12:, 20:40, 90:150] = (30, 200, 90)
    video = log.encode_video(frames, np.arange(25) * 0.1, (95.3, 95.3, 80.0, 28.0), (1.0, 0.0, 1.5, 0.0))
    assert np.flatnonzero(video.key).tolist() == [0, 10, 20]
    decoded = log.decode_video(video)
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    some = np.array([24, 3, 3, 11])
    np.testing.assert_array_equal(log.decode_video(video, some), decoded[some])
    assert log.decode_video(video, np.array([], int)).shape == (0, 64, 160, 3)


def test_mp4_carries_the_very_same_packets(make_drive):
    video = make_drive(steps=33, frames=True).video
    t, key, packets, width, height = log.from_mp4(log.to_mp4(video))
    assert packets == video.packets
    assert (width, height) == (160, 64)
    np.testing.assert_array_equal(key, video.key)
    np.testing.assert_allclose(t, video.t, atol=1e-5)


def test_bad_video_is_refused(make_drive):
    video = make_drive(steps=20, frames=True).video
    with pytest.raises(ValueError, match="mp4: does not open"):
        log.from_mp4(b"no video at all")
    with pytest.raises(ValueError, match="key frame"):
        log.decode_video(replace(video, key=np.zeros(20, bool)))
    with pytest.raises(ValueError, match="requested of 20"):
        log.decode_video(video, np.array([20]))
    with pytest.raises(ValueError, match="must be even"):
        log.encode_video(np.zeros((1, 63, 160, 3), np.uint8), np.zeros(1), (1, 1, 1, 1), (0, 0, 0, 0))
    broken = [b"\x00\x00\x00\x01\x65" + b"\xff" * 20, *video.packets[1:]]
    with pytest.raises(ValueError, match="damaged"):
        log.decode_video(replace(video, packets=broken))
