"""Pinned dependencies: hashed, matching the current pyproject.toml, and ignored if they do not."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "constraints").glob("*.txt"))


def lock_module(root: Path):
    spec = importlib.util.spec_from_file_location("lock", root / "tools" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_each_line_pins_a_version_and_a_hash(file):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+ --hash=sha256:[0-9a-f]{64}", line), line
        assert not line.startswith("torch=="), "which build of PyTorch fits depends on the machine"


def test_locks_are_of_what_the_projects_declare():
    lock = lock_module(ROOT)
    for file in FILES:
        if file.name != "weights.txt":
            assert file.read_text().startswith(lock.MARK + lock.fingerprint()), f"{file.name}: run `make lock`"


def test_a_lock_of_other_dependencies_is_passed_over(tmp_path, capsys):
    for name in ("pyproject.toml", "car/pyproject.toml", "tools/lock.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    lock = lock_module(tmp_path)
    assert lock.find() == ""
    lock.path().parent.mkdir()
    lock.path().write_text(lock.MARK + lock.fingerprint() + "\n")
    assert lock.find() == f"constraints/{lock.path().name}"
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"jinja2>=3.1"', '"jinja2>=3.2"'))
    assert lock.find() == ""
    assert "make lock" in capsys.readouterr().err
