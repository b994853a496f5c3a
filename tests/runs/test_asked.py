"""run.json records the options and artefacts of the last run."""

from dataclasses import replace
from pathlib import Path

import pytest

from drivefoundry.ledger import Artefact
from drivefoundry.recipes import default, named, tiny
from drivefoundry.runs.asked import FILE, Asked, current, remember, remembered
from drivefoundry.settings import with_settings


def artefact(id: str) -> Artefact:
    return Artefact(id, "", "sft", Path(id), (), {}, True, 0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_a_recipe_is_read_back_unchanged(tmp_path, name):
    assert remembered(tmp_path) is None
    recipe = with_settings(named(name), ["pretrain.size=1M", "scale.samples=64,128", "pretrain.ego_changes=true"])
    asked = Asked(recipe, scenes=tmp_path)
    remember(tmp_path, asked)
    assert remembered(tmp_path) == asked
    backbone = replace(recipe, pretrain=replace(recipe.pretrain, backbone="smollm2"))
    remember(tmp_path, Asked(backbone))
    assert remembered(tmp_path) == Asked(backbone)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_run_that_goes_the_same_way_again_leaves_its_list(tmp_path):
    done = [(1, "sft", artefact("a")), (1, "rl", artefact("b"))]
    remember(tmp_path, Asked(tiny()), done)
    remember(tmp_path, Asked(tiny()), done[:1])
    assert current(tmp_path) == ["a", "b"]
    remember(tmp_path, Asked(tiny()), [(1, "sft", artefact("c"))])
    assert current(tmp_path) == ["c"]
    remember(tmp_path, Asked(default()))
    assert current(tmp_path) == []


@pytest.mark.parametrize(("text", "says"), [
    ("{", "not JSON"), ("[]", "not an object"), ("{}", "field recipe is missing"),
    ('{"recipe": {"looops": 3}}', "unknown key 'looops'"), ('{"recipe": {"loops": "x"}}', "key 'loops'"),
])  # fmt: skip
def test_another_file_is_refused(tmp_path, text, says):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  its text is looked at
        remembered(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")
    assert says in str(caught.value)
