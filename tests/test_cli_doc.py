"""docs/cli.md lists the existing verbs, stages and options, and its commands are valid."""

import re
import shlex
from pathlib import Path

import pytest

from drivefoundry.cli.options import flags, named, parse
from drivefoundry.cli.shell.manual import stages_table, table
from drivefoundry.cli.verbs import STAGES, VERBS

DOCS = Path(__file__).parents[1] / "docs"
DOC = (DOCS / "cli.md").read_text()
COMMANDS = [
    (page.name, line)
    for page in sorted(DOCS.glob("*.md"))
    if page.name != "log.md"
    for line in re.findall(r"^    (?:\.venv/bin/)?(drivefoundry (?!VERB|help|--).*)$", page.read_text(), re.M)
    if "[" not in line
]


def test_tables_are_those_of_the_code():
    assert table() in DOC
    assert stages_table() in DOC
    every = {flag for verb in VERBS.values() for flag in flags(named(verb.options))}
    for flag in re.findall(r"--[a-z][a-z-]+", DOC):
        assert flag in every | {"--help", "--version"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_understood(page, line):
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    assert name in VERBS, page
    options = parse(VERBS[name], words[len(name.split()) :])
    assert options is not None
    if getattr(options, "until", None) is not None:
        assert options.until in STAGES
