"""The example of docs/api.md runs unchanged, as a script without a guard."""

import re
import subprocess
import sys
from pathlib import Path

from handmade import womd, write

DOC = Path(__file__).parents[1] / "docs" / "api.md"


def test_the_example_runs_as_a_plain_script(tmp_path):
    (tmp_path / "my-recordings").mkdir()
    for i in range(2):  # two files are read by workers
        whole = womd()
        whole["name"] = whole["scenario_id"] = f"r{i}"
        write(tmp_path / "my-recordings" / f"{i}.json", whole)
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
    (tmp_path / "script.py").write_text(block)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *rows, worst = ran.stdout.strip().splitlines()
    assert [row.split()[0] for row in rows] == ["pdms", "driving_score_21", "collision", "off_road"]
    for row in rows:
        mean, low, high, rules = map(float, re.findall(r"\d+\.\d+", row))
        assert 0.0 <= low <= mean <= high <= 1.0
        assert 0.0 <= rules <= 1.0
    assert worst.endswith("(1, 41, 6)")
