"""Peers in separate interpreters: whether one is installed, and the last output of one that failed."""

from __future__ import annotations

import subprocess
from typing import IO

LAST = 8
"""Number of lines of a peer's stderr to show."""
_LOOK = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))"


def missing(python: str, *modules: str) -> list[str]:
    """Those of the modules that an interpreter lacks; none of them is imported. SystemExit if it cannot run."""
    try:
        looked = subprocess.run([python, "-P", "-c", _LOOK, *modules], capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"--peers {python}: {error.strerror}") from None
    if looked.returncode:
        raise SystemExit(f"--peers {python}: not a Python interpreter\n{last_lines(looked.stderr)}")
    return looked.stdout.split()


def not_installed(python: str, names: list[str], extra: str = "the extra `peers` of pyproject.toml") -> str:
    """Message for a peer that is not installed."""
    return (
        f"no peer: {python} has no {', '.join(names)}; install {extra} somewhere and name its interpreter: "
        "--peers PYTHON"
    )


def last_lines(said: str | IO[str]) -> str:
    """The end of a peer's stderr, indented; an open file is read from its start."""
    if not isinstance(said, str):
        said.seek(0)
        said = said.read()
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-LAST:]) or "    (it wrote nothing to stderr)"
