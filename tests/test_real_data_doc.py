"""The page on real data works as written."""

import re
from pathlib import Path

import numpy as np

from drivefoundry.clips.importers.folder import clips_in, kind_of
from drivefoundry.stages.record import EGOS
from drivefoundry_car.log import read_drive

DOC = Path(__file__).parents[1] / "docs" / "real-data.md"


def test_the_example_writes_a_drive_that_imports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
    exec(block, {})
    assert kind_of("my-drives") == "mcap"
    clips = [read_drive(p) for p in clips_in("my-drives", "clips")]
    assert [round(float(c.t[0])) for c in clips] == [0, 20, 40]
    assert all(np.isfinite(c.ego[:, :6]).all() and c.video is not None for c in clips)
    assert clips[0].notes["route"] == "absent"


def test_numbers_on_the_page_are_those_of_the_code():
    assert EGOS == 12
    assert "up to twelve scenes" in " ".join(DOC.read_text().split())
