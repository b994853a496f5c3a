from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from street import drive, path_at, plans, street

from drivefoundry.label.episodes import WEIGHT, concatenate, episodes_of, load_shard, sane, save_shard, track_ahead
from drivefoundry.label.scene import scene_from_clip
from drivefoundry_car.log import Drive, Plans, encode_video, read_drive, write_drive
from drivefoundry_car.vehicle.inputs import to_ego, to_map


def label(d, **options):
    return episodes_of(d, scene_from_clip(d, street(), "c"), "c", **options)


def test_a_clip_gives_two_decisions_a_second_with_four_seconds_ahead():
    e = label(drive(size=(64, 160)))
    assert len(e) == len(range(5, 160, 5))
    np.testing.assert_allclose(e.t, np.arange(0.5, 16.0, 0.5))
    assert not e.correction.any()
    assert set(e.clip) == {"c"}
    assert e.ego.shape == (31, 4, 3)
    assert e.ego[10, :, 0] == pytest.approx(10.0)
    assert all(e.text)


def test_future_is_the_track_in_the_ego_frame():
    d = drive(10.0, size=(64, 160))
    e = label(d)
    i = 11  # at step 60: x = 60; 4 s later 0 m into the turn's end
    step = round(float(e.t[i]) * 10)
    ahead = path_at(step * 1.0 + 5.0 * np.arange(1, 9))
    np.testing.assert_allclose(e.future[i], to_ego(ahead, d.ego[step, :3]), atol=0.02)


def test_frames_are_those_half_a_second_ago_and_now_and_kept_once():
    d = drive(size=(64, 160))
    e = label(d)
    assert len(e.frames["front"]) == 32  # t = 0, 0.5, ..., 15.5
    level = e.frames["front"].mean((1, 2, 3))
    steps = np.rint(e.t * 10)
    np.testing.assert_allclose(level[e.frame_index[:, 0, 1]], steps % 200 + 20, atol=3)
    np.testing.assert_allclose(level[e.frame_index[:, 0, 0]], (steps - 5) % 200 + 20, atol=3)


def test_more_phases_give_more_decisions_between():
    one, five = label(drive(size=(64, 160))), label(drive(size=(64, 160)), phases=5)
    assert len(five) == 155
    at = np.searchsorted(five.t, one.t)
    np.testing.assert_allclose(five.future[at], one.future, atol=1e-6)
    with pytest.raises(ValueError, match="phases"):
        label(drive(size=(64, 160)), phases=6)


def test_what_the_model_did_is_no_label_and_corrections_are():
    d = drive(size=(64, 160))
    engaged = np.arange(200) < 100
    correction = plans([d.t[0] + 0.5, d.t[0] + 1.0, d.t[0] + 19.5], reach=30.0)
    e = label(replace(d, engaged=engaged, correction=correction))
    by_correction = e.t[e.correction]
    np.testing.assert_allclose(by_correction, [0.5, 1.0, 19.5])  # also where 4 s ahead are not recorded
    assert e.future[e.correction][:, -1, 0] == pytest.approx(30.0)
    # A driver drives from 10 s on: only there the track is a label.
    assert e.t[~e.correction].min() == pytest.approx(10.0)
    # Nobody drove a decision that the model takes part in within its 4 s.
    handed_over = np.arange(200) >= 100
    e = label(replace(d, engaged=handed_over))
    assert e.t.max() < 6.01
    assert len(label(replace(d, engaged=np.ones(200, bool)))) == 0


def test_decisions_lie_on_the_corrections_grid():
    d = drive(size=(64, 160))
    e = label(replace(d, correction=plans([d.t[0] + 0.7, d.t[0] + 1.2])))
    np.testing.assert_allclose((e.t * 10) % 5, 2, atol=1e-6)


def test_a_jump_in_the_track_gives_no_label():
    d = drive(size=(64, 160))
    ego = d.ego.copy()
    ego[100:, 1] += 30.0
    e = label(replace(d, ego=ego))
    steps = np.rint(e.t * 10)
    assert ((steps >= 100) | (steps + 40 < 100)).all()
    assert len(e) > 10


def test_sane_refuses_what_no_car_does():
    ahead = np.zeros((1, 8, 3))
    ahead[0, :, 0] = 5.0 * np.arange(1, 9)
    speed = np.array([10.0])
    assert sane(ahead, speed).all()
    assert not sane(-ahead, speed).any()  # backwards
    assert not sane(ahead * 10, np.array([100.0])).any()  # 360 km/h
    assert not sane(ahead, np.array([30.0])).any()  # brakes with 40 m/s^2
    bent = ahead.copy()
    bent[0, 4:, 2] = 1.5
    assert not sane(bent, speed).any()


def test_without_video_or_time_there_is_nothing_to_learn():
    assert len(label(drive())) == 0
    assert len(label(drive(steps=40, size=(64, 160)))) == 0


def test_rare_decisions_weigh_more():
    v = np.concatenate([np.full(60, 12.0), np.linspace(12, 0, 40), np.zeros(100)])
    d = drive(v, size=(64, 160))
    e = label(d)
    assert e.weight[np.isclose(e.t, 6.0)] == WEIGHT["stop"]
    assert e.weight[np.isclose(e.t, 12.0)] == WEIGHT["stand"]
    assert e.weight[np.isclose(e.t, 0.5)] == 1.0
    taken = np.zeros(200, bool)
    taken[100:120] = True
    e = label(replace(d, takeover=taken, correction=plans(list(d.t[5::5]), reach=40.0), engaged=np.arange(200) < 100))
    assert e.weight[np.isclose(e.t, 8.0)] == WEIGHT["takeover"]
    assert e.weight[np.isclose(e.t, 5.0)] == WEIGHT["correction"]


@settings(max_examples=25, deadline=None)
@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(-3.1, 3.1))
def test_labels_do_not_hang_on_where_the_map_frame_lies(x, y, yaw):
    d = drive(8.0, begin=60.0)
    frame = np.array([x, y, yaw])
    moved = d.ego.copy()
    moved[:, :3] = to_map(d.ego[:, :3], frame)
    other = replace(d, ego=moved)
    for step in (0, 40, 120):
        np.testing.assert_allclose(track_ahead(other, step), track_ahead(d, step), atol=1e-6)


def test_concatenated_and_stored_episodes_are_the_same(tmp_path):
    a, b = label(drive(size=(64, 160))), label(drive(6.0, size=(64, 160)))
    both = concatenate([a, b])
    assert len(both) == len(a) + len(b)
    np.testing.assert_array_equal(*(e.pictures(slice(len(e) - 1, None))["front"] for e in (both, b)))
    save_shard(tmp_path / "shard", both)
    save_shard(tmp_path / "shard", both)  # again over it
    back = load_shard(tmp_path / "shard")
    assert isinstance(back.frames["front"], np.memmap)
    np.testing.assert_array_equal(back.frames["front"], both.frames["front"])
    assert back.embodiment == both.embodiment
    for name in ("frame_index", "ego", "route", "future", "t", "weight", "correction"):
        np.testing.assert_array_equal(getattr(back, name), getattr(both, name))
    assert back.text == both.text
    assert back.clip == both.clip
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_damaged_shard_is_refused(tmp_path):
    save_shard(tmp_path / "shard", label(drive(size=(64, 160))))
    (tmp_path / "shard" / "arrays.safetensors").write_bytes(b"PK")
    with pytest.raises(ValueError, match="incomplete episode shard"):
        load_shard(tmp_path / "shard")
    with pytest.raises(ValueError, match="incomplete episode shard"):
        load_shard(tmp_path / "none")
    with pytest.raises(ValueError, match="no episodes"):
        concatenate([])


@pytest.mark.parametrize("rate", [5.0, 7.5, 8.0, 12.5, 15.0, 19.0, 30.0, 50.0, 100.0])
def test_a_label_reaches_four_seconds_at_every_rate(tmp_path, rate):
    """12 m/s, states at one rate and a camera at another, through the file that a logger writes."""
    t = np.arange(int(14 * rate)) / rate
    ego = np.zeros((len(t), 7))
    ego[:, 0], ego[:, 3] = 12 * t, 12.0
    shown = np.arange(0, 14 * 20) / 20
    frames = np.zeros((len(shown), 64, 160, 3), np.uint8)
    frames[...] = (np.arange(len(shown)) % 200 + 20)[:, None, None, None]
    video = encode_video(frames, shown, (95.3, 95.3, 80, 28), (1, 0, 1.5, 0), fps=20)
    write_drive(tmp_path / "a.mcap", Drive({"drive": "a"}, t, ego, video=video))
    e = episodes_of(read_drive(tmp_path / "a.mcap"), None, "c", phases=5)
    assert len(e) > 80
    np.testing.assert_allclose(e.future[:, :, 0], 12 * 0.5 * np.arange(1, 9)[None].repeat(len(e), 0), atol=1e-3)
    np.testing.assert_allclose(e.ego[-1, :, :2], [[12.0, 0.0]] * 4, atol=1e-5)


def test_steps_of_another_length_are_never_labelled():
    """A drive that reached labelling without an importer's checks: no label of the wrong length."""
    d = drive(size=(64, 160))
    for rate in (7.0, 8.0, 9.9, 10.1, 12.5, 15.0):
        t = d.t[0] + np.arange(200) / rate
        assert len(episodes_of(replace(d, t=t, video=replace(d.video, t=t)), None, "c", phases=5)) == 0


def test_no_decision_reaches_over_a_gap():
    d = drive(size=(64, 160))
    t = d.t + 3.0 * (np.arange(200) >= 90)
    e = episodes_of(replace(d, t=t, video=replace(d.video, t=t)), None, "c", phases=5)
    steps = np.searchsorted(t, e.t + t[0] - 1e-6)
    assert ((steps + 40 < 90) | (steps - 15 >= 90)).all()
    assert {int(s >= 90) for s in steps} == {0, 1}


def test_a_correction_between_two_steps_is_seen_from_the_step_before_it():
    d = drive(10.0, size=(64, 160))
    late = 0.06
    t = d.t[0] + 2.0 + late
    ahead = path_at(10 * (2.0 + late + 0.5 * np.arange(1, 9)))
    pose = path_at(np.array([10 * (2.0 + late)]))[0]
    plan = Plans(np.array([t]), to_ego(ahead, pose)[None].astype(np.float32), [""])
    e = label(replace(d, correction=plan, engaged=np.ones(200, bool)))
    assert e.t.tolist() == pytest.approx([2.0])
    expected = to_ego(path_at(10 * (2.0 + 0.5 * np.arange(1, 9))), d.ego[20, :3])
    np.testing.assert_allclose(e.future[0], expected, atol=0.05)
