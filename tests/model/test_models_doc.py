"""docs/models.md: its table agrees with the code, and its example runs."""

import re
from pathlib import Path

import pytest

from drivefoundry.model.backbones.exports import save_hf
from drivefoundry.model.backbones.load import load_backbone
from drivefoundry.model.presets import PRESETS, memory, parameters
from tinybackbone import tiny_backbone

DOC = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def test_the_table_of_sizes_is_what_they_are():
    rows = re.findall(r"^\| ([\d.]+[MB]) \| (\d+) × (\d+), (\d+) / (\d+) \| ([\d,]+) \| (.*) \|$", DOC, re.M)
    assert [row[0] for row in rows] == list(PRESETS)
    for size, *shape, count, bytes_ in rows:
        c = PRESETS[size]
        assert [int(x) for x in shape] == [c.layers, c.dim, c.heads, c.kv_heads]
        assert int(count.replace(",", "")) == parameters(c)
        told = [float(x.split()[0]) * UNITS[x.split()[1]] for x in bytes_.split(" | ")]
        assert told == pytest.approx(list(memory(c)), rel=6e-3)


def test_every_file_is_in_the_table():
    folder = Path(__file__).parents[2] / "src/drivefoundry/model"
    files = {".".join(p.relative_to(folder).with_suffix("").parts) for p in folder.rglob("[!_]*.py")}
    rows = re.findall(r"^\| (`.*?`) \|", DOC.partition("## Sizes")[0], re.M)
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} == files


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_hf(tmp_path / "tiny", tiny_backbone())
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.S)
    exec(code.replace('"smollm2"', '"tiny"'), {})
    assert load_backbone("exported").config == load_backbone("exported.gguf").config
