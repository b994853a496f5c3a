"""Campaigns over stored drives: what fired where, what it would cost, and which clips were uploaded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry import cli
from drivefoundry.campaigns import backlog
from drivefoundry.clips.store import ClipStore
from drivefoundry.ledger import Ledger
from drivefoundry.roadmap import save_map
from drivefoundry_car import arrays
from drivefoundry_car.log import Drive, write_drive
from drivefoundry_car.triggers import campaign
from drivefoundry_car.triggers.novelty import Sent
from situation import town

HARD = campaign("hard", {"rule": "accel_lon < -4 m/s^2 for 0.3 s", "priority": 60, "bytes_per_day": 3_000_000})
PICKED = campaign("picked", {"rule": "pick rising", "priority": 1})
RANDOM = campaign("random", {"pick": "random", "share": 0.1, "priority": 0})


@pytest.fixture
def folder(make_drive, tmp_path):
    """Two drives of 30 s, the second with two hard stops and its map beside it."""
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "here.safetensors").write_bytes(save_map(town()))
    drives = [make_drive(seed=s) for s in range(2)]
    drives[1] = replace(drives[1], meta=drives[1].meta | {"map": "here", "picks": "7"}, signal_id=np.array([0, 0]))
    for at in (100, 200):
        drives[1].ego[at : at + 5, 4] = -5
    for i, drive in enumerate(drives):
        write_drive(tmp_path / f"d{i}.mcap", drive)
    return tmp_path


def test_what_fired_where(folder):
    found = list(backlog.drives_at(folder))
    assert [r.name for r in found] == ["d0", "d1"]
    assert [r.stop_lines is not None for r in found] == [False, True]
    tested = backlog.mine([HARD, PICKED, RANDOM], iter(found))
    assert [(f.drive, round(f.t, 1), f.campaign, f.values) for f in tested.fired] == [
        ("d1", 7.0, "picked", {"pick": 1.0}),
        ("d1", 10.3, "hard", {"accel_lon": -5.0}),
        ("d1", 20.3, "hard", {"accel_lon": -5.0}),
    ]
    assert tested.drives == 2
    assert tested.hours == pytest.approx(59.8 / 3600)
    assert tested.bytes == sum((folder / f"d{i}.mcap").stat().st_size for i in range(2))
    assert tested.lacking == {"picked": {"pick": 1}}
    one = backlog.mine([HARD], backlog.drives_at(folder / "d1.mcap"))
    assert len(one.fired) == 2


def test_tables(folder):
    tested = backlog.mine([HARD, PICKED, RANDOM], backlog.drives_at(folder))
    assert backlog.fired_table(tested, 2).splitlines() == [
        "drive       t  campaign  then",
        "d1      7.0 s  picked    pick",
        "d1     10.3 s  hard      accel_lon -5 m/s^2",
        "... and 1 more",
    ]
    head, hard, told = backlog.totals_table([HARD, PICKED, RANDOM], tested, 8.0).splitlines()
    assert head.split() == ["campaign", "fired", "in", "drives", "an", "hour", "a", "day", "of", "lacks"]
    day = 2 / (59.8 / 3600) * 8 * 20 * tested.bytes / 59.8
    assert hard.split() == ["hard", "2", "1", "120.4", *backlog.megabytes(day).split(), "3.0", "MB", "-"]
    assert told.endswith("pick (1 of 2)")
    head, hard, _, random = backlog.check_table([HARD, PICKED, RANDOM]).splitlines()
    assert " ".join(hard.split()) == "hard 60 12 + 8 s 0 s 3.0 MB all - 5 accel_lon"
    assert " ".join(random.split()) == "random 0 random 0 s - all - - -"


def test_what_was_uploaded(make_drive, tmp_path):
    run = tmp_path / "run"
    store = ClipStore(run / "clips")
    paths = []
    for i, name in enumerate(["hard", "hard", "random"]):
        paths.append(tmp_path / f"{i}.mcap")
        write_drive(paths[-1], make_drive(seed=i, steps=200, campaign=name))
    ids = store.land(paths)
    bytes_ = [p.stat().st_size for p in paths]
    plain = backlog.yields(run / "clips")
    assert [(y.campaign, y.clips, y.bytes, y.judged) for y in plain] == [
        ("hard", 2, sum(bytes_[:2]), 0),
        ("random", 1, bytes_[2], 0),
    ]

    def curated(out):
        (out / "curated").mkdir()
        said = {"kept": ids[1:], "dropped": {ids[0]: "a duplicate"}, "split": {}, "classes": [], "origins": {}}
        (out / "curated" / "curated.json").write_text(json.dumps(said | {"apart": "place"}))
        held = {"weights": np.ones(2), "embeddings": np.ones((2, 1)), "priority": np.ones(2)}
        arrays.write(out / "curated" / "curated.safetensors", held)
        return {}

    (run / "clips").rename(tmp_path / "clips")  # a ledger begins in an empty directory
    with Ledger(run) as ledger:
        ledger.make("curate", {}, [], "", curated)
    (tmp_path / "clips").rename(run / "clips")
    assert [(y.campaign, y.kept, y.judged) for y in backlog.yields(run)] == [("hard", 1, 2), ("random", 1, 1)]
    table = backlog.yield_table(backlog.yields(run)).splitlines()
    assert table[1].endswith("1 of 2 (50%)")
    assert table[-1].startswith("all           3")
    assert [r.drive.meta["campaign"] for r in backlog.drives_at(run / "clips")] == ["hard", "hard", "random"]
    assert len(backlog.what_was_sent(store).kept) == 1


def test_from_the_command_line(folder, tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text(
        "[hard]\nrule = 'accel < -4 m/s^2 for 0.3 s'\npriority = 1\n[new]\nrule = 'novelty > 1'\npriority = 2\n"
    )
    Sent(np.ones((1, 14), np.float32)).save(tmp_path / "sent.safetensors")
    assert cli.main(["campaign", "check", str(file)]) == 0
    assert "2 campaigns: 8 operations per sample, 8 at worst" in capsys.readouterr().out
    assert (
        cli.main(
            ["campaign", "test", str(file), str(folder), "--sent", str(tmp_path / "sent.safetensors"), "--most", "1"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "... and 3 more" in out
    assert "2 drives, 1.0 minutes; a day has 8 hours of driving" in out
    assert cli.main(["campaign", "check", "library.toml"]) == 0
    assert "35 campaigns" in capsys.readouterr().out
    assert cli.main(["campaign", "--help"]) == 0
    assert cli.main(["campaign", "test", "--help"]) == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["chek", "a"], "campaign: unknown subcommand 'chek' (did you mean 'check'?)"),
        (["check", "none.toml"], "none.toml: no such file"),
        (["test", "library.toml"], "give drives, a clip store or a run"),
        (["test", "library.toml", "{tmp}/none"], "none: no such file or folder"),
        (["test", "library.toml", "{tmp}"], "it is empty"),
        (["test", "library.toml", "{tmp}", "--hours-a-day", "0"], "--hours-a-day must be > 0"),
        (["yield", "{tmp}"], "no run with clips and no clip store"),
        (["sent", "{tmp}"], "not a clip store or a run with one"),
    ],
)
def test_what_is_refused(tmp_path, capsys, argv, says):
    assert cli.main(["campaign", *(a.replace("{tmp}", str(tmp_path)) for a in argv)]) == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def damaged(folder):
    """The folder with a third drive that is truncated."""
    (folder / "cut.mcap").write_bytes((folder / "d0.mcap").read_bytes()[:3000])
    return folder


def test_one_damaged_drive_does_not_stop_the_test(damaged, tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text("[hard]\nrule = 'accel < -4 m/s^2 for 0.3 s'\npriority = 1\n")
    drives = [str(p) for p in sorted(damaged.glob("*.mcap"))]
    for what in ([str(damaged)], drives, [str(damaged / "d1.mcap"), str(damaged / "none"), *drives[:2]]):
        assert cli.main(["campaign", "test", str(file), *what]) == 0
        out = capsys.readouterr()
        assert "2 drives, 1.0 minutes" in out.out
        assert "hard      accel -5 m/s^2" in out.out
        left = [line for line in out.err.splitlines() if line.startswith("left out: ")]
        assert f"left out: {damaged / 'cut.mcap'}: truncated MCAP" in " ".join(left)
        assert len(left) == 1 + any("none" in w for w in what)
    assert cli.main(["campaign", "test", str(file), str(damaged / "cut.mcap")]) == 2
    assert "cut.mcap: truncated MCAP" in capsys.readouterr().err
    for path in damaged.glob("d*.mcap"):
        path.unlink()
    assert cli.main(["campaign", "test", str(file), str(damaged)]) == 2
    assert "none of its 1 recordings can be read" in capsys.readouterr().err


def test_a_damaged_map_costs_the_stop_lines_only(folder):
    (folder / "maps" / "here.safetensors").write_bytes(b"PK")
    said = []
    found = [*backlog.drives_at(folder, left_out=said.append)]
    assert [(r.name, r.stop_lines) for r in found] == [("d0", None), ("d1", None)]
    assert len(said) == 1
    assert "here.safetensors: road map" in said[0]


def test_a_rule_does_not_hold_on_through_a_gap(make_drive):
    """Hard braking at two samples, five seconds apart: what happened in between is unknown."""
    drive = make_drive(steps=200)
    drive.ego[99:101, 4] = -5
    together = backlog.StoredDrive("a", drive, 0, None)
    apart = replace(together, drive=replace(drive, t=drive.t + 5.0 * (np.arange(200) >= 100)))
    rule = campaign("hard", {"rule": "accel_lon < -4 m/s^2 for 0.5 s", "priority": 1})
    assert backlog.mine([rule], iter([apart])).fired == []
    drive.ego[99:106, 4] = -5
    tested = backlog.mine([rule], iter([together]))
    assert [round(f.t, 1) for f in tested.fired] == [10.4]
    assert (tested.drives, tested.hours) == (1, pytest.approx(19.9 / 3600))


@pytest.mark.parametrize("rate", [5, 12.5, 20, 50, 100])
def test_a_rules_seconds_are_true_seconds_at_every_rate(make_drive, tmp_path, rate):
    """Braking for 0.45 s does not count as 0.6 s, and braking for 0.9 s is not missed, at any rate of states."""
    t = np.arange(int(20 * rate)) / rate
    ego = np.zeros((len(t), 7))
    ego[:, 0], ego[:, 3] = 10 * t, 10.0
    ego[((t >= 5) & (t < 5.45)) | ((t >= 10) & (t < 10.9)), 4] = -5.0
    write_drive(tmp_path / "a.mcap", Drive({"drive": "a", "vehicle": "v"}, t, ego))
    rule = campaign("hard", {"rule": "accel_lon < -4 m/s^2 for 0.6 s", "priority": 1})
    fired = backlog.mine([rule], backlog.drives_at(tmp_path)).fired
    assert [round(f.t, 1) for f in fired] == [10.6]
