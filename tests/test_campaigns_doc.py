"""The page on campaigns covers every field and signal, and its examples run."""

import re
from pathlib import Path

from drivefoundry_car.triggers.rules import parse
from drivefoundry_car.triggers.signals import SIGNALS
from drivefoundry_car.triggers.trigger import _FIELDS, LIBRARY, load_campaigns

DOC = Path(__file__).parents[1] / "docs" / "campaigns.md"
TEXT = DOC.read_text()


def table(head):
    """Names in the first column of the table with this head."""
    rows = TEXT[TEXT.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(.+?)`", row.split("|")[1])]


def test_every_field_and_signal_is_documented():
    assert set(table("| field |")) == set(_FIELDS)
    assert sorted(table("| signal |")) == sorted(SIGNALS)


def test_every_rule_in_it_parses(tmp_path):
    for rule in table("| written |"):
        if rule.partition(" ")[0] in SIGNALS or "(" in rule:
            parse(rule, SIGNALS)
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    (tmp_path / "my.toml").write_text(example)
    late, hesitation = load_campaigns(tmp_path / "my.toml")
    assert (late.before_s, late.cohort, hesitation.share) == (8.0, ("berlin", "car-1*"), 0.5)
    assert f"{len(load_campaigns(LIBRARY))} campaigns" in TEXT


def test_the_car_watches(make_drive, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    drive = make_drive()
    drive.takeover[100:120] = True
    exec(example, {"drive": drive})
    said = "10.0 s: takeover, priority 100\n{'takeover': 1} fired, 1 recorded, 1 queued, 0 sent\n"
    assert capsys.readouterr().out == said
    assert len(list((tmp_path / "spool" / "queue").glob("*.mcap"))) == 1
