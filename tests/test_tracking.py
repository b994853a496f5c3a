"""Trackers: a killed run continues as the same run, each step once; missing trackers are refused in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drivefoundry.tracking import KINDS, Track, requested

SCRIPT = """
import os, signal, sys
from pathlib import Path
from drivefoundry.tracking import Track
with Track(sys.argv[1], "tiny pretrain", {"lr": 0.1}).run(Path(sys.argv[2])) as on_step:
    for step in range(int(sys.argv[3]), int(sys.argv[4])):
        on_step(step, 9, {"step": step, "loss": 1.0 / step, "mfu": 0.5})
    if sys.argv[5] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def life(tmp_path: Path, where: str, first: int, end: int, how: str) -> None:
    """One process of a training that logs steps first .. end - 1."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GIT_PYTHON_REFRESH": "quiet"}
    command = [sys.executable, "-c", SCRIPT, where, str(tmp_path), str(first), str(end), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.stderr[-2000:]


@pytest.mark.filterwarnings("default")  # mlflow's own, of what it builds on
def test_a_killed_run_continues_the_same_run_of_mlflow(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra", exc_type=ImportError)
    uri = f"sqlite:///{tmp_path}/runs.db"
    life(tmp_path, f"mlflow:{uri}", 1, 6, "killed")
    life(tmp_path, f"mlflow:{uri}", 4, 9, "whole")  # from its checkpoint: 4 and 5 are done again
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("drivefoundry")
    (run,) = client.search_runs([experiment.experiment_id])
    told = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in told] == [(step, 1.0 / step) for step in range(1, 9)]
    assert run.data.params == {"lr": "0.1"}
    assert run.info.run_name == "tiny pretrain"
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {"loss", "mfu"}


def test_a_killed_run_continues_in_the_same_directory_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    life(tmp_path, f"tensorboard:{tmp_path / 'tb'}", 1, 6, "killed")
    life(tmp_path, f"tensorboard:{tmp_path / 'tb'}", 4, 9, "whole")
    (folder,) = (tmp_path / "tb").iterdir()
    told = EventAccumulator(str(folder)).Reload().Scalars("loss")
    assert [m.step for m in told] == list(range(1, 9))


def test_nothing_is_written_where_no_tracker_is_requested(tmp_path):
    with Track().run(tmp_path) as on_step:
        on_step(1, 2, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_ranks_behind_the_first_tell_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Track(f"tensorboard:{tmp_path / 'tb'}", "x").run(tmp_path) as on_step:
        on_step(1, 2, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("wandb", "--track wandb: no such tracker; give mlflow, mlflow:URI or tensorboard:DIR"),
        ("tensorboard", "--track tensorboard: the directory is missing; give tensorboard:DIR"),
    ],
)
def test_an_unknown_tracker_is_refused(where, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared
        requested(where)
    assert str(caught.value) == line


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_that_is_not_installed_names_its_extra(kind, monkeypatch):
    monkeypatch.setattr("drivefoundry.tracking.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{kind} is not installed; pip install 'drivefoundry\[{kind}\]'$"):
        requested(f"{kind}:there")
