"""Check that the table "Where to find it" of docs/architecture.md leads to code that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| [^|]+\? \| `(.+?)` \| `(\w+)` \|$", (ROOT / "docs" / "architecture.md").read_text(), re.M)


def test_the_table_is_read():
    assert len(ROWS) > 20


@pytest.mark.parametrize(("file", "symbol"), ROWS)
def test_file_defines_the_symbol(file, symbol):
    folder = "car/src/drivefoundry_car" if file.startswith("car:") else "src/drivefoundry"
    text = (ROOT / folder / file.removeprefix("car:")).read_text()
    definition = rf"(?:def|class) {symbol}\b" if file.endswith(".py") else rf"^[\w:<>*& ]+[ :]{symbol}\("
    assert re.search(definition, text, re.M)
