"""The import stage: damaged drives are left out and reported in its notes; a single file works, too."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import curate
from drivefoundry.stages.openloop import import_drives
from drivefoundry_car.log import Drive, encode_video, write_drive


def landed(source, folder, name="out"):
    """Import into folder/store; returns the stage's info and its notes."""
    (folder / name).mkdir()
    info = import_drives(source, str(folder / "store"), folder / name)
    return info, json.loads((folder / name / "notes.json").read_text())


def test_a_damaged_drive_is_left_out_and_reported(make_drive, tmp_path, capsys):
    folder = tmp_path / "drives"
    folder.mkdir()
    for i, name in enumerate("ab"):
        write_drive(folder / f"{name}.mcap", make_drive(steps=80, seed=i, frames=True))
    (folder / "b.mcap").write_bytes((folder / "b.mcap").read_bytes()[:4000])
    info, notes = landed(folder, tmp_path)
    assert (info["clips"], info["left_out"]) == (1, 1)
    assert notes["left out, b.mcap"].startswith("truncated MCAP")
    assert "left out: " in capsys.readouterr().err
    info, _ = landed(folder / "a.mcap", tmp_path, "one")
    assert info["clips"] == 1
    assert "left_out" not in info
    with pytest.raises(ValueError, match=r"b\.mcap: truncated MCAP"):
        landed(folder / "b.mcap", tmp_path, "none")


def test_a_drive_whose_pictures_do_not_decode_is_left_out(make_drive, tmp_path):
    folder = tmp_path / "drives"
    folder.mkdir()
    drive = make_drive(steps=80, frames=True)
    write_drive(folder / "a.mcap", drive)
    broken = replace(drive.video, packets=[b"no jpeg"] * 80, format="jpeg", key=np.ones(80, bool))
    write_drive(folder / "b.mcap", replace(drive, video=broken))
    info, notes = landed(folder, tmp_path)
    assert (info["clips"], info["left_out"]) == (1, 1)
    assert "video: a packet does not decode" in notes["left out, b-000.mcap"]


def test_a_drive_of_another_rate_is_reported_and_kept(tmp_path):
    t = np.arange(300) / 15
    ego = np.zeros((300, 7))
    ego[:, 0], ego[:, 3] = 12 * t, 12.0
    frames = np.random.default_rng(0).integers(0, 255, (300, 64, 160, 3), np.uint8)
    video = encode_video(frames, t, (95.3, 95.3, 80, 28), (1, 0, 1.5, 0), fps=15)
    meta = {"vehicle": "v", "drive": "a", "map": "not-here"}
    write_drive(tmp_path / "a.mcap", Drive(meta, t, ego, video=video))
    _, notes = landed(tmp_path / "a.mcap", tmp_path)
    assert notes["clock"] == "states came about 15 times a second; interpolated at 10 a second"
    store = ClipStore(str(tmp_path / "store"))
    (clip,) = store.ids()
    drive = store.drive(clip)
    np.testing.assert_allclose(np.diff(drive.t), 0.1, atol=1e-9)
    assert "map" not in drive.meta
    assert curate(str(tmp_path / "store"), [clip], backend="serial").kept == [clip]


def test_where_drives_differ_each_is_reported(make_drive, tmp_path):
    folder = tmp_path / "drives"
    folder.mkdir()
    for i, (name, rate) in enumerate({"a": 10, "b": 20, "c": 20}.items()):
        drive = make_drive(steps=160, seed=i, frames=True)
        t = np.arange(160) / rate
        kept = replace(drive, t=t, plan=None, correction=None, video=replace(drive.video, t=t))
        write_drive(folder / f"{name}.mcap", replace(kept, notes={"signals": f"as {name} has them", "route": "absent"}))
    _, notes = landed(folder, tmp_path)
    assert notes["route"] == "absent"
    assert notes["clock"] == "states came about 20 times a second; interpolated at 10 a second"
    assert {k for k in notes if k.startswith("signals")} == {f"signals of drive-{i}" for i in range(3)}


def test_a_clip_whose_pictures_are_lost_does_not_stop_curation(make_drive, tmp_path):
    folder = tmp_path / "drives"
    folder.mkdir()
    for i, name in enumerate("ab"):
        write_drive(folder / f"{name}.mcap", make_drive(steps=80, seed=i, frames=True))
    landed(folder, tmp_path)
    store = ClipStore(str(tmp_path / "store"))
    rows = store.rows(["id", "video"]).to_pydict()
    for file in (tmp_path / "store").rglob("*"):
        if rows["video"][0] in file.name:
            file.unlink()
    found = curate(str(tmp_path / "store"), rows["id"], backend="serial")
    assert found.dropped[rows["id"][0]].startswith("damaged: ")
    assert rows["id"][0] not in found.kept
