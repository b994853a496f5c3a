"""What an artefact hangs on is all the code that makes it: change any of it and the stage is redone."""

import ast
import importlib.util
from pathlib import Path

import pytest

from drivefoundry.sources import _files, code_hash
from drivefoundry.stages import making

BESIDE = ("drivefoundry.disk", "drivefoundry.ledger", "drivefoundry.outputs", "drivefoundry.progress",
          "drivefoundry.compute", "drivefoundry.recipes", "drivefoundry.settings", "drivefoundry.sources",
          "drivefoundry.tracking")  # fmt: skip
"""How and when things are made, not what: recipes are in the key by their values."""
STAGES = {
    name: code for name, code in vars(making).items() if isinstance(code, tuple) and name not in ("STORE", "PICK")
}


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, those for type checkers alone left out."""
    found: set[str] = set()
    tree, hidden = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if spec(whole) else node.module)
    return {m for m in found if m.startswith(("drivefoundry.", "drivefoundry_car."))}


def spec(name: str) -> bool:
    try:
        return name.startswith("drivefoundry") and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def under(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_hangs_on_all_that_its_rooms_import(stage):
    code = STAGES[stage]
    files = [f for name in code if ".stages." not in name for f in _files(name)[1] if f.suffix == ".py"]
    missing = {m for f in files for m in imported(f) if not under(m, (*code, *BESIDE))}
    if stage not in ("CAR", "SHIP"):
        missing -= {"drivefoundry_car.driving.runtime"}  # sim.policies: where a car drives, the stage adds CAR itself
    assert not missing, f"{stage} in stages/making.py lacks them"


def test_the_campaigns_are_part_of_what_picks_clips(tmp_path):
    _, files = _files("drivefoundry_car.triggers.campaigns")
    assert [f.name for f in files] == ["campaigns.toml"]
    assert code_hash(("drivefoundry_car.triggers.campaigns",)) != code_hash(("drivefoundry_car.triggers.trigger",))
