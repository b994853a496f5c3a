"""Settings change the field that they name, in its own type, and are otherwise refused in one line."""

from dataclasses import dataclass, field

import pytest

from drivefoundry.settings import with_file, with_settings


@dataclass(frozen=True)
class Train:
    steps: int = 100
    rate: float = 3e-4
    compile: bool = False


@dataclass(frozen=True)
class Recipe:
    loops: int = 3
    name: str = "tiny"
    seeds: tuple[int, ...] = (1, 2)
    limit: int | None = None
    train: Train = field(default_factory=Train)


def test_values_take_the_type_of_their_field():
    settings = ["loops=5", "train.rate=1e-3", "train.compile=true", "seeds=4,5", "limit=7", "name=a=b"]
    changed = with_settings(Recipe(), settings)
    assert changed == Recipe(5, "a=b", (4, 5), 7, Train(100, 1e-3, True))
    assert with_settings(changed, ["limit=none"]).limit is None


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("lops=3", "unknown key 'lops': did you mean 'loops'?"),
        ("train.step=3", "unknown key 'train.step': did you mean 'train.steps'?"),
        ("trane.steps=3", "unknown key 'trane.steps': did you mean 'train'?"),
        ("train=3", "key 'train' is a group: train.steps, train.rate, train.compile"),
        ("loops.x=3", "unknown key 'loops.x': 'loops' has no parts"),
        ("loops=three", "key 'loops': must be int, got 'three'"),
        ("loops=2.5", "key 'loops': must be int, got '2.5'"),
        ("train.rate=nan", "key 'train.rate': must be float, got 'nan'"),
        ("train.compile=perhaps", "key 'train.compile': 'perhaps' is not one of True, False"),
        ("loops", "--set loops: must be key=value"),
    ],
)
def test_wrong_settings_say_what_fits(setting, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared
        with_settings(Recipe(), [setting])
    assert str(caught.value) == line


def test_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("loops = 2\nseeds = [9]\n[train]\nsteps = 7\nrate = 1\n")
    assert with_file(Recipe(), path) == Recipe(loops=2, seeds=(9,), train=Train(7, 1.0))
    for text, line in (("loops = 2.5", "must be int"), ("lops = 2", "did you mean 'loops'"), ("loops = ", "not TOML")):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"mine.toml.*{line}"):
            with_file(Recipe(), path)
