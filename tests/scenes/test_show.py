"""Pictures, films and tables of recorded traffic."""

import subprocess
import sys

import av
import pytest
from PIL import Image

from drivefoundry import cli
from drivefoundry.ledger import Ledger
from drivefoundry.recipes import tiny
from drivefoundry.runs.asked import Asked, remember
from drivefoundry.scenes import show
from drivefoundry.stages.ingest import write_json
from drivefoundry.types import short_id
from handmade import womd, write


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
    (tmp_path / "traffic").mkdir()
    write(tmp_path / "traffic" / "a.json", womd(lights=True))
    write(tmp_path / "traffic" / "b.json", b'{"objects": ')
    return tmp_path / "traffic"


def test_table(folder, capsys):
    assert cli.main(["scene", "list", str(folder)]) == 0
    out, err = capsys.readouterr()
    head, *rows = [line.split(maxsplit=7) for line in out.splitlines()]
    assert tuple(head) == show.COLUMNS
    assert rows[0] == ["0", short_id("womd-abc:100"), "womd-abc:100", "womd", "8.0", "3", "1", "recorded vehicle 100"]
    assert len(rows) == 2
    assert err.startswith("no scene of b.json: incomplete JSON")
    assert "Not read: 1 lanes without a length (in 1 recordings)." in err.splitlines()


def test_pictures_and_films(folder, tmp_path, capsys):
    file = str(folder / "a.json")
    for name, more in (("a.png", ["--at", "30"]), ("b.gif", ["--scene", "1"]), ("c.mp4", ["--scene", "womd-abc:101"])):
        assert cli.main(["scene", "show", file, "--out", str(tmp_path / name), *more]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"traffic", "a.png", "b.gif", "c.mp4"}
    with Image.open(tmp_path / "b.gif") as film, Image.open(tmp_path / "a.png") as picture:
        assert film.n_frames == 31  # 6.1 s after the start, five a second
        assert film.size == picture.size
    with av.open(tmp_path / "c.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 31


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--scene", "7"], "--scene 7: must be 0 to 1"),
        (["--scene", "nobody"], "--scene nobody: no such scene"),
        (["--at", "500"], "step 500: the scene has 91 steps"),
        (["--out", "a.jpg"], "--out a.jpg: must be a *.png, *.mp4 or *.gif file"),
        (["--out", "no/such/a.png"], "no such folder"),
        (["--out", "a.gif", "--at", "3"], "--at 3: a film shows all steps"),
    ],
)
def test_refusals_in_one_line(folder, capsys, more, says):
    assert cli.main(["scene", "show", str(folder), *more]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_picture_takes_no_place_of_somebody_s_file(folder, tmp_path, capsys):
    mine, link = tmp_path / "mine.png", tmp_path / "link.png"
    mine.write_text("my thesis")
    link.symlink_to(mine)
    for out in (mine, link):
        assert cli.main(["scene", "show", str(folder / "a.json"), "--out", str(out)]) == 2
        assert f"{out}: exists and is not a .png file" in capsys.readouterr().err
        assert mine.read_text() == "my thesis"


def test_nothing_to_show(tmp_path, capsys):
    write(tmp_path / "b.json", b'{"objects": ')
    assert cli.main(["scene", "list", str(tmp_path)]) == 2
    assert "contains no scene (b.json: incomplete JSON" in capsys.readouterr().err


def test_a_reader_may_stop_reading(folder):
    code = "import sys; from drivefoundry.cli import main; sys.exit(main(['scene', 'list', sys.argv[1]]))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert process.returncode == 0
    assert "Broken" not in err


def test_a_scene_has_one_short_id_and_any_unambiguous_prefix_is_taken(folder):
    rows, _ = show.listing(folder)
    for n, row in enumerate(rows):
        assert row["id"] == short_id(row["scene"])
        for which in (str(n), row["id"], row["id"][:6], row["scene"]):
            assert show.scene_at(folder, which).id == row["scene"]
    with pytest.raises(ValueError, match=r"--scene womd-abc: 2 scenes match; give more digits"):
        show.scene_at(folder, "womd-abc")
    with pytest.raises(ValueError, match="no such scene"):
        show.scene_at(folder, rows[0]["id"][:5] + "x")
    assert short_id("ab" * 32) == "ab" * 6
    assert len(short_id("AB" * 32)) == 12 != short_id("ab" * 32)


def other(name: str, **more) -> dict:
    return {**womd(**more), "scenario_id": name, "name": name}


def test_one_scene_costs_one_file(folder, monkeypatch):
    for name in ("c.json", "d.json"):
        write(folder / name, other(name, lights=True))
    rows, _ = show.listing(folder)
    read = []
    real = show.scenes_in
    monkeypatch.setattr(show, "scenes_in", lambda path, **more: read.append(path.name) or real(path, **more))
    last = rows[-1]
    assert show.scene_at(folder, last["id"]).id == last["scene"]
    assert show.scene_at(folder, str(last["n"])).id == last["scene"]
    assert read == ["d.json", "d.json"]
    write(folder / "d.json", other("d.json", lights=False))
    assert show.listing(folder)[0][-1]["lights"] == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent.with_name("empty-cache")))
    read.clear()
    assert show.scene_at(folder, "0").id == rows[0]["scene"]
    assert set(read) == {"a.json"}


def test_what_cannot_be_cached_is_read(folder, monkeypatch):
    (folder / "file").write_text("no directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    assert show.scene_at(folder, "1").id == show.listing(folder)[0][1]["scene"]


def test_the_exam_of_a_run_on_recorded_traffic(folder, tmp_path):
    every, _ = show.listing(folder)
    held_out = {every[1]["scene"]: "hash"}

    def build(out):
        write_json(out / "exam.json", {"scenes": held_out})

    run = tmp_path / "run"
    with Ledger(run) as ledger:
        ledger.make("exam", {"turn": None, "recipe": {}}, [], "", build)
    with pytest.raises(ValueError, match=r"a run on recorded traffic; give the folder that it was given"):
        show.listing(run)
    remember(run, Asked(tiny(), scenes=folder))
    rows, _ = show.listing(run)
    assert [(r["n"], r["scene"]) for r in rows] == [(0, every[1]["scene"])]
    assert show.scene_at(run, "0").id == show.scene_at(run, rows[0]["id"][:6]).id == every[1]["scene"]
    assert [s.id for s in show.exam_scenes(run)] == [every[1]["scene"]]
    with pytest.raises(ValueError, match="no such scene"):
        show.scene_at(run, every[0]["id"])
    write(folder / "a.json", other("another", lights=True))
    with pytest.raises(ValueError, match="no longer exist"):
        show.exam_scenes(run)
