"""The names that other programs build on. A change here is a change of the interface."""

import inspect

from drivefoundry import cli, compute, ledger, progress, settings
from drivefoundry.cli.verbs import STAGES, first_words
from drivefoundry.ui import content, report


def public(module):
    return sorted(
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    )


def test_names():
    assert public(ledger) == ["Artefact", "Ledger", "fresh"]
    assert public(compute) == ["cores", "keep_memory", "pmap"]
    assert public(progress) == ["Clock", "Pace", "bar", "cpu_seconds", "kept", "say", "silent", "stage", "under_way"]
    assert public(settings) == ["canonical", "nearest", "with_file", "with_settings", "with_values"]
    assert public(cli) == ["main"]
    assert public(report) == ["render_report"]
    assert "ReportContent" in public(content)


def test_signatures():
    assert [*inspect.signature(ledger.Ledger.make).parameters] == ["self", "kind", "recipe", "parents", "code", "build"]
    assert [*inspect.signature(compute.pmap).parameters] == ["fn", "items", "backend", "workers", "on_done"]
    assert [*inspect.signature(report.render_report).parameters] == ["content", "path"]


def test_verbs():
    verbs = ["run", "report", "ls", "status", "gc", "judge", "serve", "ingest", "campaign"]
    assert first_words() == [*verbs, "release", "plan", "scale", "scene", "city", "model", "completion"]
    stages = ["fleet", "ingest", "import", "curate", "label", "train", "rl", "distil", "shrink", "judge", "release"]
    assert [*STAGES] == [*stages, "car"]
