"""Training data of later turns: everything that a model drove, and a share of what people drove; initial models."""

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.label.episodes import save_shard
from drivefoundry.ledger import Ledger
from drivefoundry.model.backbones.exports import save_hf
from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.recipes import tiny
from drivefoundry.settings import with_settings
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.train import fine_tuned, mixed, pretrained, select_samples
from drivefoundry.types import Episodes
from drivefoundry_car.vehicle.embodiment import CAR
from tinybackbone import tiny_backbone


def shard(n: int, name: str, size: tuple[int, int] = (4, 6)) -> Episodes:
    """n samples, each with frames of its own."""
    rng = np.random.default_rng(n)
    return Episodes(
        frames={"front": rng.integers(0, 255, (2 * n, *size, 3), dtype=np.uint8)},
        frame_index=np.arange(2 * n).reshape(n, 1, 2),
        ego=np.ones((n, 4, 3), np.float32), route=np.zeros((n, 12), np.float32), future=np.zeros((n, 8, 3), np.float32),
        text=[f"{name} {i}" for i in range(n)], clip=[name] * n, t=np.arange(n) * 0.5, weight=np.ones(n, np.float32),
        correction=np.zeros(n, bool),
        embodiment=replace(CAR, cameras=(CAR.cameras[0].scaled(size[1], size[0]),)),
    ).validate()  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    out = []
    for i, n in enumerate((60, 10, 20)):
        out.append(tmp_path / str(i))
        out[-1].mkdir()
        save_shard(out[-1] / "shard", shard(n, f"turn{i + 1}"))
    return out


def test_what_a_model_drove_has_the_share_it_is_given(folders):
    assert [len(e) for e in mixed(folders[:1], 0.4, 0)] == [60]
    old, *driven = mixed(folders, 0.5, 0)
    assert [len(e) for e in driven] == [10, 20]
    assert len(old) == 30
    assert len({*old.text}) == 30
    assert [e.text for e in mixed(folders, 0.5, 0)] == [old.text, *(e.text for e in driven)]
    assert len(mixed(folders, 0.1, 0)[0]) == 60, "there are no more"


def test_samples_that_are_taken_keep_what_is_theirs():
    whole = shard(8, "a")
    some = select_samples(whole, np.array([1, 5])).validate()
    assert some.text == ["a 1", "a 5"]
    assert some.frame_index.tolist() == [[[2, 3]], [[10, 11]]]
    assert some.t.tolist() == [0.5, 2.5]


def test_a_backbone_is_begun_with_and_hung_on_by_its_bytes(tmp_path):
    given = tmp_path / "given"
    save_hf(given, tiny_backbone())
    few = ["pretrain.steps=1", "sft.steps=1", "pretrain.batch=4", "sft.batch=4", f"pretrain.backbone={given}"]
    recipe = with_settings(tiny(), few).validate()
    with Ledger(tmp_path / "run") as ledger:
        line = RunContext(ledger, recipe, tmp_path / "run")
        label = lambda d: save_shard(d / "shard", shard(8, "a", (32, 48)))  # noqa: E731
        episodes = line.make(1, "label", "label", {}, [], label)
        first = pretrained(line, [episodes])
        assert {"samples_per_s", "mfu", "goodput", "scheduling", "runtime"} <= set(first.info)
        assert load_checkpoint(first.path / "checkpoint").tokenizer.raw == tiny_backbone().tokenizer
        tuned = load_checkpoint(fine_tuned(line, 1, first, [episodes]).path / "checkpoint")
        assert tuned.config.dim == tiny_backbone().config.dim
        assert not pretrained(line, [episodes]).made
        (given / "tokenizer_config.json").write_text("{}")
        assert pretrained(line, [episodes]).made


def test_a_backbone_that_is_not_there_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match=r"^pretrain\.backbone: no/such\.gguf: no such backbone; give a \.gguf file"):
        with_settings(tiny(), ["pretrain.backbone=no/such.gguf"]).validate()
