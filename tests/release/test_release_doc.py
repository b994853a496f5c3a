import re
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.judge.gate import Gate, judge, save_verdict

DOC = Path(__file__).parents[2] / "docs" / "release.md"


def test_the_page_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the page runs, in order; only the self-test is replaced, since this engine is a
    stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "weights.bin").write_bytes(b"w")
    gate = Gate("collision", at_most=0.1)
    save_verdict(tmp_path / "verdict.json", judge("int8", ["s"], {"int8": {"collision": np.zeros(1)}}, (gate,)))
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(block.replace('vehicle="car-7"', 'vehicle="car-7", test=lambda path: None'), names)
    assert names["installed"].name == "turn-3"
    assert names["report"].good
    assert (tmp_path / "slots" / "current" / "engine" / "weights.bin").read_bytes() == b"w"
