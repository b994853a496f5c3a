"""The names that other programs depend on. A change here is a change of the interface."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import drivefoundry
from drivefoundry import cli, compute, ledger, progress, settings
from drivefoundry.cli.verbs import STAGES, first_words
from drivefoundry.reports import content
from drivefoundry.reports import html as report

API = {
    "Drive", "Embodiment", "Evaluation", "Gate", "Observation", "Perception", "Plan", "Policy", "RoadMap", "Rollout",
    "Scene", "Sensor", "Simulator", "Verdict", "__version__", "drive", "drives_in", "evaluate", "load_engine",
    "load_policy", "load_scenes", "read_drive", "recipe", "run", "verdict", "write_drive",
}  # fmt: skip


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
    assert public(progress) == [
        "Clock",
        "Pace",
        "bar",
        "cpu_seconds",
        "kept",
        "say",
        "silent",
        "stage",
        "under_way",
        "warn",
    ]
    assert public(settings) == ["canonical", "leaves", "nearest", "with_file", "with_settings", "with_values"]
    assert public(cli) == ["main"]
    assert public(report) == ["render_report"]
    assert "ReportContent" in public(content)


def test_the_package_gives_scripts_these_names():
    assert set(drivefoundry.__all__) == API
    assert set(dir(drivefoundry)) >= API
    for name in sorted(API):
        thing = getattr(drivefoundry, name)
        assert thing is getattr(drivefoundry, name)
        assert name == "__version__" or callable(thing)
    assert drivefoundry.__version__ == version("drivefoundry")
    with pytest.raises(AttributeError, match="no attribute 'nothing'; its names: Drive"):
        _ = drivefoundry.nothing
    assert [*inspect.signature(drivefoundry.drive).parameters] == [
        "policy", "scenes", "seconds", "body", "perception", "simulator", "on_decision",
    ]  # fmt: skip
    assert [*inspect.signature(drivefoundry.evaluate).parameters] == [
        "policy", "scenes", "seconds", "reference", "two_stages", "body", "perception", "on_scenes",
    ]  # fmt: skip
    assert [*inspect.signature(drivefoundry.load_scenes).parameters] == ["path", "egos"]
    assert [*inspect.signature(drivefoundry.load_engine).parameters] == ["folder", "guard"]


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys; import drivefoundry; print(*sorted({m.partition('.')[0] for m in sys.modules} "
        "& {'torch', 'numpy', 'numba', 'gymnasium', 'av', 'pyarrow', 'tyro'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_signatures():
    assert [*inspect.signature(ledger.Ledger.make).parameters] == ["self", "kind", "recipe", "parents", "code", "build"]
    assert [*inspect.signature(compute.pmap).parameters] == ["fn", "items", "backend", "workers", "on_done"]
    assert [*inspect.signature(report.render_report).parameters] == ["content", "path"]


def test_verbs():
    verbs = ["run", "report", "ls", "status", "gc", "judge", "serve", "ingest", "campaign"]
    assert first_words() == [*verbs, "release", "plan", "scale", "scene", "city", "model", "completion"]
    stages = ["fleet", "ingest", "import", "curate", "label", "train", "rl", "distil", "quantize", "judge", "release"]
    assert [*STAGES] == [*stages, "car"]
