"""One damaged recording among several: the others are read, and one line says what was left out and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_comma2k19 import segment
from test_importers import road_camera
from test_udacity_telemetry import table

from drivefoundry.clips.importers import clips_in, drives_in
from drivefoundry.clips.importers.folder import fingerprint, kind_for, kind_of, maps_in
from drivefoundry.roadmap import make_map, save_map
from drivefoundry_car.log import read_drive, write_drive


@pytest.fixture
def folder(make_drive, tmp_path):
    """Three drives, of which b is truncated."""
    folder = tmp_path / "drives"
    folder.mkdir()
    for i, name in enumerate("abc"):
        write_drive(folder / f"{name}.mcap", make_drive(steps=80, seed=i, frames=True))
    whole = (folder / "b.mcap").read_bytes()
    (folder / "b.mcap").write_bytes(whole[: len(whole) // 2])
    return folder


def test_own_drives(folder, tmp_path):
    said = []
    assert [d.meta["drive"] for d in drives_in(folder, left_out=said.append)] == ["drive-0", "drive-2"]
    paths = clips_in(folder, tmp_path / "out", left_out=said.append)
    assert [p.name for p in paths] == ["a-000.mcap", "c-000.mcap"]
    assert [s.split("; ")[0] for s in said] == [
        f"left out: {folder / 'b.mcap'}: truncated MCAP, its footer is missing"
    ] * 2
    assert not any("\n" in s for s in said)


def test_by_default_it_is_printed_on_stderr(folder, capsys):
    assert len([*drives_in(folder)]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith(f"left out: {folder / 'b.mcap'}: truncated MCAP")
    assert out.err.count("\n") == 1


def test_if_none_is_readable_or_one_was_named_it_is_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match=r"b\.mcap: truncated MCAP"):
        [*drives_in(folder / "b.mcap")]
    for name in "ac":
        (folder / f"{name}.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(ValueError, match=r"none of its 3 recordings can be read; the first: .*a\.mcap: truncated"):
        [*drives_in(folder)]
    with pytest.raises(ValueError, match="none of its 3 recordings"):
        clips_in(folder, tmp_path / "out")


def test_what_cannot_be_opened_is_left_out_too(folder):
    (folder / "b.mcap").unlink()
    (folder / "d.mcap").symlink_to(folder / "gone.mcap")
    (folder / "e.mcap").mkdir()
    (folder / "f.mcap").write_bytes(b"")
    said = []
    assert len([*drives_in(folder, left_out=said.append)]) == 2
    assert [s.split(": ")[1] for s in said] == [str(folder / f"{n}.mcap") for n in "def"]


def test_one_file_will_do_for_a_folder(folder, tmp_path):
    paths = clips_in(folder / "c.mcap", tmp_path / "out")
    assert [p.name for p in paths] == ["c-000.mcap"]
    assert kind_of(folder / "c.mcap") == kind_for(folder / "c.mcap", "drives") == "mcap"
    before = fingerprint(folder / "c.mcap")
    assert fingerprint(folder / "a.mcap") != before
    road = make_map(lanes=[np.array([[0.0, 0], [100, 0]])])
    (folder / "maps").mkdir()
    (folder / "maps" / "here.safetensors").write_bytes(save_map(road))
    assert [*maps_in(folder / "c.mcap")] == [road.id]
    assert fingerprint(folder / "c.mcap") != before


def test_a_drive_whose_map_is_missing_becomes_one_without(folder, tmp_path):
    assert "map" in read_drive(clips_in(folder / "c.mcap", tmp_path / "a")[0]).meta
    assert "map" in read_drive(clips_in(folder / "c.mcap", tmp_path / "b", maps=["m" * 64])[0]).meta
    assert "map" not in read_drive(clips_in(folder / "c.mcap", tmp_path / "c", maps=[])[0]).meta


def test_a_clip_never_reaches_over_a_gap(make_drive, tmp_path):
    drive = make_drive(steps=600, frames=True)
    t = drive.t + 8.0 * (np.arange(600) >= 250) + 5.0 * (np.arange(600) >= 252)
    (tmp_path / "in").mkdir()
    write_drive(tmp_path / "in" / "a.mcap", replace(drive, t=t, video=replace(drive.video, t=t)))
    clips = [read_drive(p) for p in clips_in(tmp_path / "in", tmp_path / "out")]
    assert [len(c.t) for c in clips] == [250, 200, 148]  # two steps between two gaps hold nothing
    assert all(np.diff(c.t).max() < 0.11 for c in clips)
    assert sum(len(c.video.t) for c in clips) >= 598


def test_comma2k19_segments(tmp_path):
    segment(tmp_path)
    segment(tmp_path, "11", begin=560.03)
    assert len([*drives_in(tmp_path)]) == 2
    (next(tmp_path.glob("*/11/global_pose/frame_times"))).write_bytes(b"\x93NUMPY")
    said = []
    assert len([*drives_in(tmp_path, left_out=said.append)]) == 1
    assert len(said) == 1
    assert "frame_times: not a complete NumPy array" in said[0]


def test_udacity_tables(tmp_path):
    table(tmp_path / "HMB_1.csv")
    table(tmp_path / "HMB_2.csv", angle=0.1, change=(5, "speed", "fast"))
    text = (tmp_path / "HMB_2.csv").read_text().replace("center/14794242158", "center/14794242159")
    (tmp_path / "HMB_2.csv").write_text(text)
    said = []
    assert [d.meta["drive"] for d in drives_in(tmp_path, left_out=said.append)] == ["HMB_1-0"]
    assert said == [f"left out: {tmp_path / 'HMB_2.csv'}: line 5, speed: 'fast' is not a number"]
    assert len([*drives_in(tmp_path / "HMB_1.csv")]) == 1


def test_errors_name_what_drives_takes(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="no camera drives") as error:
        kind_for(tmp_path, "drives")
    said = str(error.value)
    assert "own or ROS 2" in said
    assert "labels.csv" in said
    assert "docs/real-data.md" in said
    assert "ScenarioNet" not in said
    table(tmp_path / "HMB_1.csv")
    with pytest.raises(ValueError, match=r"udacity_telemetry logs have no pictures.*docs/real-data\.md"):
        kind_for(tmp_path, "drives")
    road_camera(tmp_path / "cam", 6.0)
    assert kind_for(tmp_path / "cam", "drives") == "udacity"
