"""The daemon's configuration: the documented example is valid, and errors are reported in one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from drivefoundry_car.daemon.config import load

EXAMPLE = re.search(r"```toml\n(.*?)```", (Path(__file__).parents[3] / "docs" / "car.md").read_text(), re.S)
assert EXAMPLE is not None
TEXT = EXAMPLE[1]


def written(folder: Path, text: str) -> Path:
    (folder / "root.json").write_text("{}")
    (folder / "car.toml").write_text(text)
    return folder / "car.toml"


def test_the_documented_example_is_a_configuration(tmp_path):
    config = load(written(tmp_path, TEXT))
    assert config.driving.slots == tmp_path / "slots"
    assert str(config.socket) == "/run/drivefoundry/bus"
    assert config.upload is not None
    assert config.upload.windows[0].networks == ("wifi:depot",)
    assert config.recording.queue == tmp_path / "spool" / "queue"


def test_defaults_match_the_documentation(tmp_path):
    """Every documented line with a value marked 'default' may be omitted."""
    lines = TEXT.splitlines()
    shorter = [x for x in lines if not re.search(r"# default(;|:|$)", x) or x.startswith(("bytes_per_day", "windows"))]
    assert len(shorter) < len(lines) - 6
    full, short = (load(written(tmp_path, t)) for t in (TEXT, "\n".join(shorter)))
    assert short == full


def test_upload_and_update_may_be_left_out(tmp_path):
    config = load(written(tmp_path, TEXT[: TEXT.index("[upload]")]))
    assert (config.upload, config.update) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('vehicle = "car-7"', "", "vehicle is missing; add it"),
        ('vehicle = "car-7"', "vehicle = 7", "vehicle must be text, got 7"),
        ("[cameras.front]", "[cameras.left]", r"cameras must have one named 'front', which models see; got \['left'\]"),
        ("width = 160", "width = 161", "cameras.front.width must be even and > 0; got 161"),
        ('format = "h264"', 'format = "vp9"', "cameras.front.format must be one of rgb, h264, jpeg; got 'vp9'"),
        ("[95.3, 95.3, 80.0, 28.0]", "[95.3]", "cameras.front.intrinsics must be a list of 4 numbers"),
        ("deadline_s = 0.5", "deadline_s = 0", "driving.deadline_s must be > 0; got 0"),
        ("lockstep = false", 'lockstep = "no"', "driving.lockstep must be true or false, got 'no'"),
        ("lockstep = false", "lock_step = false", "driving.lock_step: unknown; known are slots, root, lockstep"),
        ('root = "root.json"', 'root = "r"', "driving.root must be the root.json .*; got '.*/r'"),
        ('campaigns = ""', 'campaigns = "c.toml"', "recording.c.toml: no such file"),
        ('"https://clips.example"', '"http://clips.example"', "upload.server: http://clips.example is plain http"),
        ("every_s = 10.0", "every_s = -1.0", "upload.every_s must be > 0; got -1.0"),
        ("bus", "b" * 100, "socket must have at most 100 bytes, not 1"),
    ],
)
def test_errors_are_one_line_with_file_and_field(tmp_path, old, new, line):
    assert old in TEXT
    path = written(tmp_path, TEXT.replace(old, new, 1))
    tomllib.loads(path.read_text())
    with pytest.raises(ValueError, match=line) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
