"""Recipes are documented, key by key, and refuse values that no stage could work with."""

import re
from pathlib import Path

import pytest

from drivefoundry import cli
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
        ("loops=0", "loops: must be > 0, got 0"),
        ("fleet.cars=-1", "fleet.cars: must be > 0, got -1"),
        ("fleet.cars=1000000", "fleet.cars: must be at most 1000, got 1000000"),
        ("fleet.seconds=5", "fleet.seconds: must be at least 20, got 5"),
        ("train.new_share=1.5", "train.new_share: must be at most 1, got 1.5"),
        ("judge.films=-1", "judge.films: must be at least 0, got -1"),
        ("train.size=9M", "train.size: '9M' is not one of 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("curate.phases=9", "curate.phases: must be at most 5, got 9"),
        ("fleet.places=", "fleet.places: give at least one"),
        ("fleet.places=place_a,place_a", "fleet.places: place_a, place_a: one of them is given twice"),
        ("fleet.held_out=place_b", "fleet.held_out: 'place_b' is one of fleet.places; hold out another"),
        ("scale.sizes=0.1M,9M", "scale.sizes: '9M' is not one of 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("scale.samples=32", "scale.samples: each must be from scale.batch (64) to 1,000,000,000, got 32"),
        ("camera.action=steer", "key 'camera.action': 'steer' is not one of codes, flow"),
        ("rl.reward=PDM", "rl.reward: 'PDM' is not one of PDMS, EPDMS"),
        ("campaigns=none.toml", "campaigns: none.toml: no such file"),
    ],
)
def test_values_that_cannot_work_are_refused(setting, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared
        with_settings(named("default"), [setting]).validate()
    assert str(caught.value) == line


def absurd(value: object) -> list[str]:
    """Values of a leaf's type, or of another, that nobody means."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ["-1", "0", "1e300", "999999999999", "nan", "many", ""]
    return ["", "nowhere", "/no/such/thing", "-1", "a,a", "\n"]


@pytest.mark.parametrize("key", [key for key, _ in leaves(named("default"))])
def test_no_value_of_any_key_leaves_a_directory_before_it_is_known_to_work(tmp_path, capsys, monkeypatch, key):
    """Each value is either a valid one, or refused in one line that names its key."""
    monkeypatch.chdir(tmp_path)
    refusals = 0
    for text in absurd(dict(leaves(named("default")))[key]):
        code = cli.main(["run", "--dry-run", "--set", f"{key}={text}"])
        said = capsys.readouterr().err
        assert code in (0, 2)
        assert said.count("\n") == (code == 2)
        assert (key in said) == (code == 2)
        if code == 2:
            refusals += 1
            assert cli.main(["run", "--set", f"{key}={text}"]) == 2
            assert capsys.readouterr().err == said
        assert list(tmp_path.iterdir()) == []
    assert refusals > 0
