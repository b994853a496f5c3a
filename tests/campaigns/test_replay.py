"""Replaying a stored drive through the car's data side stores its clips through the real service."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry.ingest.server import running
from drivefoundry_car.log import cut, write_drive

RULES = """
[brake]
rule = "accel < -4 m/s^2 for 0.3 s"
priority = 60
cooldown_s = 3.0
before_s = 4.0
after_s = 2.0
"""


@pytest.fixture(scope="module")
def drives(make_drive, tmp_path_factory):
    """Two drives with a camera at its own times; in the first, two hard brakes."""
    folder, made = tmp_path_factory.mktemp("drives"), []
    (folder / "my.toml").write_text(RULES)
    for seed in range(2):
        drive = make_drive(steps=300, seed=seed, frames=True)
        for begin in (100, 200) if not seed else ():
            drive.ego[begin : begin + 6, 4] = -6.0
        video = replace(drive.video, t=drive.video.t + 0.033)
        made.append(replace(drive, video=video))
        write_drive(folder / f"{seed}.mcap", made[-1])
    return folder, made


def refused(capsys, *argv: str) -> str:
    assert cli.main(argv) == 2
    return capsys.readouterr().err


def test_a_replayed_drives_clips_land_with_their_pictures(drives, tmp_path, capsys):
    folder, (drive, _) = drives
    where = ("--store", str(tmp_path / "store"), "--spool", str(tmp_path / "spool"))
    assert cli.main(["campaign", "replay", str(folder / "my.toml"), str(folder), *where]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said[:4] == [["drive", "fired", "recorded", "sent", "dropped"], ["0", "2", "2", "2", "0"],
                        ["1", "0", "0", "0", "0"], ["all", "2", "2", "2", "0"]]  # fmt: skip
    store = ClipStore(tmp_path / "store")
    first, second = sorted((store.drive(i) for i in store.ids()), key=lambda d: d.t[0])
    for clip, begin in ((first, 6.3), (second, 16.3)):
        wanted = cut(drive, begin, begin + 6.0)
        np.testing.assert_array_equal(clip.t, wanted.t)
        np.testing.assert_array_equal(clip.ego, wanted.ego)
        assert clip.video.packets == wanted.video.packets
        np.testing.assert_allclose(clip.video.t, wanted.video.t, atol=1e-5)
        assert (clip.meta["campaign"], clip.meta["vehicle"]) == ("brake", "car-1")
    left = [p.name for p in (tmp_path / "spool").rglob("*.mcap*")]
    assert left == []


def test_a_running_service_takes_them_from_a_vehicle_that_it_knows(drives, tmp_path, capsys):
    folder, _ = drives
    store = ClipStore(tmp_path / "store")
    with closing(Vehicles(tmp_path / "store" / "incoming" / "vehicles.db")) as vehicles:
        code, other = vehicles.invite("car-1"), vehicles.invite("car-2")
    with running(store) as service:
        to = ["campaign", "replay", str(folder / "my.toml"), str(folder / "0.mcap"), "--to", service.url]
        assert cli.main([*to, "--code", code, "--spool", str(tmp_path / "one")]) == 0
        assert "2 clips sent to http://127.0.0.1:" in capsys.readouterr().out
        again = refused(capsys, *to, "--code", other, "--spool", str(tmp_path / "two"))
        assert "0: 2 of 2 clips were not uploaded" in again or "403 the clip is from vehicle" in again
        assert len(list((tmp_path / "two" / "queue" / "refused").glob("*.mcap"))) == 2
        assert "enrol the vehicle" in refused(capsys, *to, "--spool", str(tmp_path / "three"))
    assert len(store.ids()) == 2


def test_what_cannot_be_replayed_is_reported_in_one_line(drives, tmp_path, make_drive, capsys):
    folder, _ = drives
    write_drive(tmp_path / "nobody.mcap", make_drive(steps=20, vehicle=""))
    rest = ("--store", str(tmp_path / "store"), "--spool", str(tmp_path / "spool"))
    said = refused(capsys, "campaign", "replay", str(folder / "my.toml"), str(tmp_path / "nobody.mcap"), *rest)
    assert said.startswith("drivefoundry: nobody: its meta names no vehicle")
    assert "give drives" in refused(capsys, "campaign", "replay", str(folder / "my.toml"), *rest)
