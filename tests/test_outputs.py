"""Results are written atomically, and users' own files are never replaced."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from drivefoundry import outputs
from drivefoundry.model.gguf import write_gguf
from drivefoundry.render.view import mp4
from drivefoundry_car import arrays


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def make(out, words="one", more=()):
    with outputs.folder(out, "b") as aside:
        for name in ("a", "b", *more):
            (aside / name).write_text(words)


def test_an_absent_an_empty_and_an_own_folder_are_written(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("deep/new", "empty"):
        out = tmp_path / name
        make(out, more=("c",))
        make(out, "two")
        assert {k: v for k, v in tree(out).items() if k != outputs.MARK} == {"a": b"two", "b": b"two"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty"]
    assert (tmp_path / "empty").stat().st_mode == (tmp_path / "deep").stat().st_mode


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: (out / "thesis.txt").write_text("work"),
        lambda out: (out / ".hidden").write_text("work"),
        lambda out: (out / "inner").mkdir(),
        lambda out: (out / "a").write_text("two"),
        lambda out: (out / "a").write_text("eno"),
        lambda out: (out / outputs.MARK).unlink(),
    ],
)
def test_a_folder_that_holds_anything_else_is_left_alone(spoil, tmp_path):
    out = tmp_path / "out"
    make(out)
    spoil(out)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"out: holds '.*', which is not from an earlier export"):
        make(out, "new")
    assert tree(tmp_path) == before


def test_what_stands_beside_is_never_touched(tmp_path):
    for name in ("out.part", ".out.part", "x.gguf.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("work")
    make(tmp_path / "out")
    with outputs.file(tmp_path / "x.gguf") as aside:
        aside.write_text("x")
    for name in ("out.part", ".out.part", "x.gguf.part"):
        assert (tmp_path / name / "mine").read_text() == "work"


def test_a_failure_changes_nothing(tmp_path):
    make(tmp_path / "out")
    (tmp_path / "file").write_text("old")
    before = tree(tmp_path)
    for place in (outputs.folder(tmp_path / "out", "b"), outputs.folder(tmp_path / "new", "b"),
                  outputs.among(tmp_path / "out", ["a"], "a")):  # fmt: skip
        with pytest.raises(ZeroDivisionError), place as aside:
            (aside / "a").write_text(str(1 / len(os.listdir(aside))))
    with pytest.raises(ZeroDivisionError), outputs.file(tmp_path / "file") as aside:
        aside.write_text(str(aside.write_text("half") / 0))
    assert tree(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_a_kill_between_two_files_can_be_made_good(tmp_path):
    out = tmp_path / "out"
    make(out)
    code = (
        "import os, sys; from pathlib import Path; from drivefoundry import outputs\n"
        "replace = os.replace\n"
        "def once(a, b):\n"
        "    replace(a, b)\n"
        "    if Path(b).name == 'a': os._exit(9)\n"
        "os.replace = once\n"
        "with outputs.folder(Path(sys.argv[1]), 'b') as aside:\n"
        "    [(aside / n).write_text('two') for n in 'abc']\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(out)]).returncode == 9
    assert not (out / "b").exists(), "a half written folder looks whole"
    make(out, "three")
    assert (out / "a").read_text() == (out / "b").read_text() == "three"
    assert not (out / "c").exists()


def test_files_among_others_take_only_free_or_own_names(tmp_path):
    (tmp_path / "notes.txt").write_text("work")
    for words in ("one", "two"):
        with outputs.among(tmp_path, ["law.json"], "law.json") as aside:
            (aside / "law.json").write_text(words)
    assert (tmp_path / "law.json").read_text() == "two"
    assert (tmp_path / "notes.txt").read_text() == "work"
    (tmp_path / "law.json").write_text("mine now")
    for name in ("law.json", "notes.txt"):
        with (
            pytest.raises(ValueError, match=f"{name}: exists and is not from an earlier run"),
            outputs.among(tmp_path, [name], name),
        ):
            raise AssertionError
    assert (tmp_path / "law.json").read_text() == "mine now"


def test_a_file_takes_no_folder_s_and_no_device_s_place(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("folder", "is a folder"),
        ("pipe", "not a plain file"),
        ("none/x", "there is no folder"),
    ):
        with pytest.raises(ValueError, match=message), outputs.file(tmp_path / name):
            raise AssertionError
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with outputs.file(tmp_path / "link") as aside:
        aside.write_text("new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", [".gguf", ".safetensors", ".png", ".gif", ".mp4"])
def test_only_a_file_of_the_same_kind_is_replaced(kind, tmp_path):
    made = {
        ".gguf": lambda path: write_gguf(path, {"a": "b"}, {"x": np.zeros(3, np.float32)}),
        ".safetensors": lambda path: arrays.write(path, {"x": np.zeros(3)}),
        ".png": lambda path: Image.new("RGB", (4, 4)).save(path),
        ".gif": lambda path: Image.new("RGB", (4, 4)).save(path),
        ".mp4": lambda path: path.write_bytes(mp4([np.zeros((64, 64, 3), np.uint8)] * 2, 10)),
    }
    real, link = tmp_path / f"real{kind}", tmp_path / f"link{kind}"
    link.symlink_to(real.name)
    for own in (b"my thesis", b"GGU", b"\x89PNG\n"):
        real.write_bytes(own)
        for out in (real, link):
            with pytest.raises(ValueError, match=rf"exists and is not a {kind} file"), outputs.file(out, kind):
                raise AssertionError
            assert real.read_bytes() == own
    real.write_bytes(b"")
    outputs.check_file(real, kind)
    made[kind](real)
    for other in set(made) - {kind}:
        with pytest.raises(ValueError, match=f"not a {other} file"):
            outputs.check_file(real, other)
    with outputs.file(link, kind) as aside:
        made[kind](aside)
        new = aside.read_bytes()
    assert real.read_bytes() == new
    assert sorted(p.name for p in tmp_path.iterdir()) == [link.name, real.name]
