"""Write or find the file of pinned, hashed dependencies for this platform and Python.

    python tools/lock.py write ARGUMENT...   resolve what `pip install ARGUMENT...` would install, into constraints/
    python tools/lock.py find                print the file to install from, or nothing if none is valid

A file is valid for one platform and Python version, and for the dependency lists it was resolved from, whose hash is in
its first line. PyTorch is not included: which build fits depends on the machine, and the Makefile pins its version.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = ("pyproject.toml", "car/pyproject.toml")
MARK = "# resolved from dependency lists "
NOT_LOCKED = ("torch", "drivefoundry", "drivefoundry-car")


def path() -> Path:
    """The lock file of this platform and Python, whether it exists or not."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return ROOT / "constraints" / f"{sysconfig.get_platform()}-{python}.txt".replace("_", "-")


def fingerprint() -> str:
    """Hash of the declared dependencies; other changes of pyproject.toml do not affect it."""
    read = [tomllib.loads((ROOT / name).read_text())["project"] for name in PROJECTS]
    lists = [[p["requires-python"], p["dependencies"], p["optional-dependencies"]] for p in read]
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()


def find() -> str:
    """Path of the valid lock file, "" if there is none; prints to stderr why an existing one is ignored."""
    lock = path()
    if not lock.exists():
        return ""
    if lock.read_text().partition("\n")[0] != MARK + fingerprint():
        print(
            f"{lock.name}: not of this pyproject.toml, installing from ranges; `make lock` renews it", file=sys.stderr
        )
        return ""
    return str(lock.relative_to(ROOT))


def write(arguments: list[str]) -> Path:
    """Resolve with pip and write the lock file of this platform."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", report.name, *arguments], cwd=ROOT, check=True)
        found = json.loads(Path(report.name).read_text())["install"]
    lines = [MARK + fingerprint()]
    for one in sorted(found, key=lambda one: one["metadata"]["name"].lower()):
        name = one["metadata"]["name"].lower().replace("_", "-")
        if name not in NOT_LOCKED:
            sha = one["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={one['metadata']['version']} --hash=sha256:{sha}")
    lock = path()
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("\n".join(lines) + "\n")
    return lock


if __name__ == "__main__":
    print(write(sys.argv[2:]).relative_to(ROOT) if sys.argv[1] == "write" else find())
