"""Recipes are documented, key by key, and refuse invalid values."""

import re
from pathlib import Path

import pytest

from drivefoundry import cli
from drivefoundry.recipes import RECIPES, named
from drivefoundry.settings import leaves, with_file, with_settings

DOC = Path(__file__).parents[1] / "docs" / "recipes.md"
TRAININGS = ("pretrain", "sft", "distil", "camera")


def told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_key_is_documented_with_its_values():
    documented = {}
    for line in re.findall(r"^\| `[\w.]+` \|.*\|$", DOC.read_text(), re.M):
        key, *values, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        assert meaning
        if len(values) == 2:
            documented[key.strip("`")] = tuple(values)
        elif len(values) == 4:  # one row for all trainings: the value of `default`, and in brackets that of `tiny`
            for name, value in zip(TRAININGS, values, strict=True):
                default, tiny = re.fullmatch(r"(.*?)(?: \((.*)\))?", value).groups()
                documented[f"{name}.{key.strip('`')}"] = (default, default if tiny is None else tiny)
    tiny = dict(leaves(named("tiny")))
    assert documented == {key: (told(value), told(tiny[key])) for key, value in leaves(named("default"))}


def test_the_example_file_is_a_recipe(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", DOC.read_text(), re.S)
    path = tmp_path / "mine.toml"
    path.write_text(example)
    recipe = with_file(named("default"), path).validate()
    assert (recipe.loops, recipe.pretrain.size, recipe.pretrain.steps) == (5, "1M", 900)
    for setting in re.findall(r"--set (\S+)", DOC.read_text()):
        with_settings(named("default"), [setting]).validate()


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_are_valid(name):
    assert named(name).validate() == named(name)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("loops=0", "loops: must be from 1 to 1,000, got 0"),
        ("fleet.cars=-1", "fleet.cars: must be from 1 to 1,000, got -1"),
        ("fleet.cars=1000000", "fleet.cars: must be from 1 to 1,000, got 1000000"),
        ("fleet.seconds=5", "fleet.seconds: must be from 20 to 3,600, got 5"),
        ("sft.new_share=1.5", "sft.new_share: must be > 0 and at most 1, got 1.5"),
        ("camera.augment.flip=2", "camera.augment.flip: must be from 0 to 1, got 2.0"),
        ("distil.tensor=2", "distil.tensor: above 1 it needs shard=true"),
        ("sft.steps=0", "sft.steps: set seconds or steps, otherwise the run would never end"),
        ("judge.films=-1", "judge.films: must be from 0 to 100, got -1"),
        ("pretrain.size=9M", "pretrain.size: '9M' is not one of 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("curate.phases=9", "curate.phases: must be from 1 to 5, got 9"),
        ("fleet.places=", "fleet.places: give at least one"),
        ("fleet.places=place_a,place_a", "fleet.places: place_a, place_a: one of them is given twice"),
        ("fleet.held_out=place_b", "fleet.held_out: 'place_b' is one of fleet.places; hold out another"),
        ("scale.sizes=0.1M,9M", "scale.sizes: '9M' is not one of 0.1M, 0.3M, 1M, 4M, 16M, 64M"),
        ("scale.samples=32", "scale.samples: each must be from batch (64) to 1,000,000,000, got 32"),
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
    """Absurd values of a leaf's type, or of another type."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ["-1", "0", "1e300", "999999999999", "nan", "many", ""]
    return ["", "nowhere", "/no/such/thing", "-1", "a,a", "\n"]


def distinct_keys() -> list[str]:
    """Every key once: the four training stages share most of theirs."""
    first: dict[str, str] = {}
    for key, _ in leaves(named("default")):
        section, _, name = key.partition(".")
        first.setdefault(name if section in TRAININGS else key, key)
    return [*first.values()]


@pytest.mark.parametrize("key", distinct_keys())
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
