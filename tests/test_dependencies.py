"""The projects declare exactly the dependencies that the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {"grpc": "grpcio", "carla_driver_interface": "carla-driver-interface"}
"""Distributions of modules that extras bring, which need not be installed."""
BEHIND = {"securesystemslib", "httptools", "uvloop"}
"""Never imported here: tuf needs the first, with its extra `crypto`, to check ed25519 signatures; uvicorn the rest."""


def imported(*folders: str) -> dict[str, Path]:
    """Imported top-level modules of other projects -> a file that imports them."""
    found = {}
    for file in [f for folder in folders for f in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0]: file for name in names}
    return {m: f for m, f in found.items() if m not in sys.stdlib_module_names}


def declared(project: str, *extras: str) -> set[str]:
    read = tomllib.loads((ROOT / project).read_text())["project"]
    wanted = read["dependencies"] + [d for e in extras for d in read["optional-dependencies"][e]]
    return {re.split(r"[\[<>=]", d)[0].lower() for d in wanted}


@pytest.mark.parametrize(
    ("project", "own", "folder"),
    [("pyproject.toml", "drivefoundry", "src"), ("car/pyproject.toml", "drivefoundry_car", "car/src")],
)
def test_imports_and_declarations_agree(project, own, folder):
    extras = ("ray", "gym", "alpasim", "mlflow", "ros2", "tensorboard") if own == "drivefoundry" else ("alpasim",)
    wanted, providers = declared(project, *extras), packages_distributions()
    used = set()
    for module, file in imported(folder).items():
        if module == own:
            continue
        sources = {name.lower().replace("_", "-") for name in providers.get(module, [NAMES.get(module, module)])}
        assert sources & wanted, f"{file.relative_to(ROOT)} imports {module}; {project} does not declare {sources}"
        used |= sources
    assert wanted - used <= BEHIND, f"{project} declares what nothing imports"
