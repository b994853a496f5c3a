"""`drivefoundry model`: import a backbone, describe it, export a trained one."""

import re

import pytest

from drivefoundry import cli
from drivefoundry.model.backbones.exports import save_hf
from drivefoundry.model.backbones.load import load_backbone
from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.model.presets import PRESETS, parameters
from tinybackbone import tiny_backbone


def said(capsys, *argv):
    assert cli.main(["model", *map(str, argv)]) == 0
    return capsys.readouterr().out


def count(table):
    return int(re.findall(r"^parameters +([\d,]+)", table, re.M)[0].replace(",", ""))


def test_in_looked_at_and_out_again(tmp_path, capsys):
    given, made, hf, gguf = (tmp_path / name for name in ("given", "made", "hf", "out.gguf"))
    save_hf(given, tiny_backbone())
    table = said(capsys, "import", given, "--out", made)
    loaded = load_checkpoint(made)
    assert count(table) == loaded.model.parameter_count()
    assert f"--set pretrain.backbone={made}" in table
    assert table.startswith(said(capsys, "show", made))
    assert said(capsys, "export", made, "--hf", hf, "--gguf", gguf).split() == [str(hf), str(gguf)]
    told = load_backbone(hf)
    assert told.config == load_backbone(gguf).config
    assert told.config.layers == loaded.config.layers
    small = tmp_path / "small.gguf"
    assert said(capsys, "export", made, "--gguf", small, "--form", "Q8_0").split() == [str(small)]
    assert small.stat().st_size < gguf.stat().st_size
    small.write_text("mine")
    assert cli.main(["model", "export", str(made), "--gguf", str(small)]) == 2
    assert f"{small}: exists and is not a .gguf file" in capsys.readouterr().err
    assert small.read_text() == "mine"


def test_a_flow_head_is_one_of_its_parts(tmp_path, capsys):
    save_hf(tmp_path / "given", tiny_backbone())
    table = said(capsys, "import", tmp_path / "given", "--out", tmp_path / "made", "--action", "flow")
    assert "plans by flow" in table
    assert re.search(r"^  flow +[\d,]+$", table, re.M)
    assert load_checkpoint(tmp_path / "made").model.flow is not None


@pytest.mark.parametrize("size", PRESETS)
def test_every_size_is_described_without_its_weights(size, capsys):
    table = said(capsys, "show", size)
    assert count(table) == parameters(PRESETS[size])
    parts = re.findall(r"^  [a-z ]+? +([\d,]+)(?:  |$)", table.partition("sequence")[0], re.M)
    assert sum(int(n.replace(",", "")) for n in parts) == parameters(PRESETS[size])


def test_help_names_its_verbs(capsys):
    assert "model import BACKBONE" in said(capsys)
