"""An artefact depends on the code that makes it: a change to that code rebuilds it, and no other change does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from drivefoundry import sources
from drivefoundry.sources import ROOTS, closure, code_hash
from drivefoundry.stages import ingest, label, record, score, ship, train
from loop import environment

FILES = {
    "__init__.py": "",
    "build.py": '''
"""Builds."""
import json
from closuretest.shapes import Square, area as surface, unused
from closuretest import names
from closuretest.inner import deep
FACTOR = 2
OTHER = 3
names.TABLE["late"] = 1

def build(out):
    """A docstring."""
    # a comment
    unused = 4  # a local variable of the same name as an import
    return surface(Square(FACTOR)) + names.first() + deep.bottom() + len(json.dumps([unused for unused in out]))

def other(out):
    return OTHER

def lazy(out):
    from closuretest.late import late
    return late()

def held(policy):
    return lambda out: policy(out)
''',
    "shapes.py": """
class Shape:
    def area(self):
        return 0

class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2

def area(shape):
    return shape.area()

def unused():
    return 5
""",
    "names.py": """
from pathlib import Path
TABLE = {}
def first():
    return (Path(__file__).parent / "table.csv").read_text()
def second():
    return 2
""",
    "table.csv": "1,2",
    "other.csv": "3",
    "late.py": "def late():\n    return 1\n",
    "inner/__init__.py": "",
    "inner/deep.py": "from ..names import second as bottom\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "closuretest"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "ROOTS", (*ROOTS, "closuretest"))
    yield folder
    forget()
    for name in [m for m in sys.modules if m.partition(".")[0] == "closuretest"]:
        del sys.modules[name]


def forget() -> None:
    for cached in (sources._looked_up, sources._parsed, sources._file, sources._data, sources._users):
        cached.cache_clear()


def hash_of(name: str) -> str:
    """Hash of a function of the package, from the current files."""
    import closuretest.build

    forget()
    return code_hash(getattr(closuretest.build, name))


COUNTS = {
    "the function itself": ("build.py", "len(json", "1 + len(json"),
    "a constant": ("build.py", "FACTOR = 2", "FACTOR = 3"),
    "a function of another module, by another name": ("shapes.py", "return shape.area()", "return shape.area() + 1"),
    "a method": ("shapes.py", "self.side ** 2", "self.side ** 3"),
    "a base class": ("shapes.py", "return 0", "return 1"),
    "a function by its module": ("names.py", "Path(__file__).parent", "Path(__file__).absolute().parent"),
    "a re-exported function of a relative import": ("names.py", "return 2", "return 3"),
    "a data file": ("table.csv", "1,2", "1,3"),
    "a statement that runs on import": ("build.py", 'TABLE["late"] = 1', 'TABLE["late"] = 2'),
}
DOES_NOT = {
    "a comment": ("build.py", "# a comment", "# another"),
    "a docstring": ("build.py", "A docstring.", "Another."),
    "layout": ("build.py", "FACTOR = 2", "FACTOR = (\n    2\n)"),
    "another function": ("build.py", "return OTHER", "return OTHER + 1"),
    "another constant": ("build.py", "OTHER = 3", "OTHER = 4"),
    "a function with the name of a local variable": ("shapes.py", "return 5", "return 6"),
    "a module that another function imports": ("late.py", "return 1", "return 2"),
    "another data file": ("other.csv", "3", "4"),
}


@pytest.mark.parametrize(
    ("edit", "counts"),
    [*((COUNTS[name], True) for name in COUNTS), *((DOES_NOT[name], False) for name in DOES_NOT)],
    ids=[*COUNTS, *DOES_NOT],
)
def test_which_edits_count(package, edit, counts):
    name, old, new = edit
    before = hash_of("build")
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new))
    assert (hash_of("build") != before) == counts


def test_what_a_function_holds_counts(package):
    import closuretest.build as made
    import closuretest.late

    held = made.held(closuretest.late.late)
    assert "closuretest.late:late" in closure(held)
    assert "closuretest.late:late" in closure(made.lazy)
    assert "closuretest.late:late" not in closure(made.held(made.other))
    assert "closuretest.shapes:Square" in closure(partial(made.held, made.build))
    assert {"closuretest.shapes:Shape", "closuretest.shapes:Square"} <= set(
        closure(made.held(closuretest.shapes.Square))
    )


def test_a_users_own_function_counts_and_a_librarys_is_refused():
    found = closure(lambda out: environment(**out))
    assert f"{__name__}:test_a_users_own_function_counts_and_a_librarys_is_refused" in found
    assert "loop:environment" in found
    with pytest.raises(ValueError, match="no source file"):
        code_hash(Path.read_text)
    with pytest.raises(ValueError, match="no source file"):
        code_hash(FunctionType((lambda: 1).__code__, {"__name__": "nowhere"}))


def modules(build: Callable[..., Any]) -> set[str]:
    return {name.partition(":")[0] for name in closure(build)}


def test_stages_depend_on_what_they_run_and_on_nothing_else():
    """A few cases that manual lists got wrong, and what must stay separate so that little is rebuilt."""
    assert "drivefoundry.label.episodes:load_shard" in closure(train._pretrain)
    assert "drivefoundry.clips.store" in modules(train._reinforce)
    assert "drivefoundry.stages.label:scenes_of" in closure(train._reinforce)
    native = {"file:drivefoundry_car/engine/kernels.cpp", "file:drivefoundry_car/engine/forward.h"}
    assert native <= set(closure(train._quantise))
    cities = closure(record.record_city)
    assert any(name.endswith("place_a.net.xml.gz") for name in cities)
    assert not {"drivefoundry.fleet.supervised", "drivefoundry.judge.evaluate"} & modules(record.record_city)
    assert not any(name.startswith(("drivefoundry.model", "drivefoundry.train")) for name in modules(score.compare))
    assert not any(name.startswith("drivefoundry.sim") for name in modules(ship.sign_release))
    assert any(name.endswith("campaigns.toml") for name in closure(ingest.ingest))
    assert "drivefoundry.judge.gate" not in modules(label.label_clips)


def test_all_code_that_runs_in_a_build_is_in_its_closure(ran_again):
    """Observed from outside: the project's functions that are entered while each artefact of a short loop is made."""
    told = json.loads(ran_again.with_suffix(".json").read_text())
    assert {kind: names for kind, names in told["missing"].items() if names} == {}
    assert {"fleet", "ingest", "curate", "label", "pretrain", "rl", "distil", "quantize", "score"} <= set(told["ran"])
    assert all(told["ran"].values())
