"""The fuzzer finds planted faults, and the fast readers pass it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
BROKEN = """
import os, sys
from benchmarks import fuzz, readers
from benchmarks.model_readers import Reader

def read(data):
    if data == b"sound" or data[-1] < 100:
        raise_for(data) if data != b"sound" else None
    elif data[-1] < 180:
        raise KeyError(data[-1])
    elif data[-1] < 200:
        os.abort()

def raise_for(data):
    raise ValueError("no")

readers.READERS["broken"] = lambda folder: Reader([b"sound"], lambda dice, data: dice.randbytes(8), read)
if __name__ == "__main__":
    fuzz.sys.executable = os.environ["FUZZ_PYTHON"]
    sys.exit(fuzz.main())
"""


def fuzz(*arguments: str, folder: Path, **environment: str) -> tuple[int, dict]:
    command = [sys.executable, *arguments, "--keep", str(folder / "kept")]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_what_reads_texts_holds_for_a_second(tmp_path):
    code, told = fuzz("-m", "benchmarks.fuzz", "--quick", "--only", "campaigns", "rules", folder=tmp_path)
    assert code == 0, list((tmp_path / "kept").iterdir())
    assert min(told["figures"][f"{name}_inputs"] for name in ("campaigns", "rules")) > 5
    assert told["figures"]["rules_refused"] > 0


@pytest.mark.timeout(600)
def test_exceptions_and_deaths_are_found_counted_and_kept(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    wrapper = tmp_path / "python"  # children run the same script, in which the reader is known
    wrapper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path / "broken.py"} "$@"\n')
    wrapper.chmod(0o755)
    code, told = fuzz(
        str(tmp_path / "broken.py"), "1.5", "--only", "broken", folder=tmp_path, PYTHONPATH=str(TOP),
        FUZZ_PYTHON=str(wrapper),
    )  # fmt: skip
    assert code == 1
    figures = told["figures"]
    assert figures["broken_crashes"] > 0
    assert figures["broken_uncaught"] > 0
    assert figures["broken_inputs"] >= figures["broken_crashes"] + figures["broken_uncaught"]
    kept = {path.read_text().splitlines()[0]: path.with_suffix(".input") for path in (tmp_path / "kept").glob("*.txt")}
    assert any("KeyError" in kind for kind in kept)
    assert 180 <= kept["died of signal 6"].read_bytes()[-1] < 200
