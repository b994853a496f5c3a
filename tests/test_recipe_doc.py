"""Recipes are documented, key by key, and refuse values that no stage could work with."""

import re
from pathlib import Path

import pytest

from drivefoundry.recipes import RECIPES, leaves, named
from drivefoundry.settings import with_file, with_settings

DOC = Path(__file__).parents[1] / "docs" / "recipes.md"


def told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_key_is_documented_with_its_values():
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.+?) \|$", DOC.read_text(), re.M)
    documented = {key: (default, tiny) for key, default, tiny, meaning in rows if meaning.strip()}
    tiny = dict(leaves(named("tiny")))
    assert documented == {key: (told(value), told(tiny[key])) for key, value in leaves(named("default"))}


def test_the_example_file_is_a_recipe(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", DOC.read_text(), re.S)
    path = tmp_path / "mine.toml"
    path.write_text(example)
    recipe = with_file(named("default"), path).validate()
    assert (recipe.loops, recipe.train.size, recipe.train.pretrain_steps) == (5, "1M", 900)
    for setting in re.findall(r"--set (\S+)", DOC.read_text()):
        with_settings(named("default"), [setting]).validate()


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_are_valid(name):
    assert named(name).validate() == named(name)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("loops=0", "loops: above 0 wanted, got 0"),
        ("fleet.cars=-1", "fleet.cars: above 0 wanted, got -1"),
        ("train.new_share=1.5", "train.new_share: a share, at most 1, wanted, got 1.5"),
        ("judge.films=-1", "judge.films: 0 or more wanted, got -1"),
        ("train.size=9M", "train.size: '9M' is no size; known: 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("curate.phases=9", "curate.phases: at most 5 wanted, got 9"),
        ("fleet.places=", "fleet.places: at least one wanted"),
        ("fleet.held_out=place_b", "fleet.held_out: 'place_b' is one of fleet.places; hold out another"),
        ("scale.sizes=0.1M,9M", "scale.sizes: '9M' is no size; known: 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("scale.samples=32", "scale.samples: each at least a batch (64) wanted"),
        ("camera.action=steer", "key 'camera.action': 'steer' is not one of codes, flow"),
        ("rl.reward=PDM", "rl.reward: 'PDM' is neither PDMS nor EPDMS"),
    ],
)
def test_values_that_cannot_work_are_refused(setting, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared
        with_settings(named("default"), [setting]).validate()
    assert str(caught.value) == line
