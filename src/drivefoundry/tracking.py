"""Log a training's metrics to an experiment tracker, beside the JSONL file that every training writes.

Where: `mlflow` (the URI in MLFLOW_TRACKING_URI, or MLflow's default), `mlflow:URI`, or `tensorboard:DIR`. A run is
identified by an id in the training's directory until training ends, so a restarted training continues the same run; the
tracker is asked for its last step, and no step is reported twice.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from drivefoundry.progress import say
from drivefoundry.types import require
from drivefoundry_car.durable import write_text

KINDS = ("mlflow", "tensorboard")
EXPERIMENT = "drivefoundry"
"""MLflow's experiment, unless MLFLOW_EXPERIMENT_NAME is set."""
TAG = "drivefoundry.run"


class Run(Protocol):
    """One training's run in a tracker. `last`: its last logged step, 0 if there is none."""

    last: int

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self, status: str) -> None:
        """status: FINISHED or FAILED."""
        ...


def requested(where: str) -> str:
    """Check that a tracker is available, without opening it; return its name. ValueError if it is not."""
    kind, _, place = where.partition(":")
    require(not where or kind in KINDS, f"--track {where}: no such tracker; give mlflow, mlflow:URI or tensorboard:DIR")
    require(kind != "tensorboard" or bool(place), f"--track {where}: the directory is missing; give tensorboard:DIR")
    there = not where or find_spec(kind) is not None
    require(there, f"--track {where}: {kind} is not installed; pip install 'drivefoundry[{kind}]'")
    return where


@dataclass(frozen=True)
class Track:
    """The tracker of a stage's metrics, the run's name, and the settings to log with it."""

    where: str = ""
    """As in `requested`; empty for none."""
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def run(self, folder: Path, part: str = "") -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """Open the run of a training in `folder`, or of one `part` of a stage that trains twice; yields its callback,
        in which only rank 0 logs. The id is stored in `folder` as a *.tmp file, which the ledger does not keep."""
        if not self.where or os.environ.get("RANK", "0") != "0":
            yield lambda step, total, metrics: None
            return
        name, mark = f"{self.name} {part}".rstrip(), folder / f"{part or 'whole'}.run.tmp"
        if not mark.exists():
            write_text(mark, uuid.uuid4().hex)
        run = _opened(self.where, name, mark.read_text(), self.settings)
        last, status = run.last, "FAILED"

        def on_step(step: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal last
            if step > last:
                run.log(step, {k: v for k, v in metrics.items() if k != "step"})
                last = step

        try:
            yield on_step
            status = "FINISHED"
        finally:
            run.close(status)


def _opened(where: str, name: str, id: str, settings: Mapping[str, Any]) -> Run:
    kind, _, place = requested(where).partition(":")
    return Mlflow(place or None, name, id, settings) if kind == "mlflow" else TensorBoard(Path(place), name, id)


class Mlflow:
    """A run tagged with the id. If the tracker fails during training, it is given up with one line."""

    def __init__(self, uri: str | None, name: str, id: str, settings: Mapping[str, Any]):
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        self.metric, self.failure = Metric, MlflowException
        try:
            self.client = MlflowClient(tracking_uri=uri)
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            known = self.client.get_experiment_by_name(experiment)
            within = known.experiment_id if known else self.client.create_experiment(experiment)
            found = self.client.search_runs([within], f"tags.`{TAG}` = '{id}'")
            self.id = (found[0] if found else self.client.create_run(within, run_name=name, tags={TAG: id})).info.run_id
            held = found[0].data.metrics if found else {}
            self.last = max((m.step for key in held for m in self.client.get_metric_history(self.id, key)), default=0)
            self.client.update_run(self.id, status="RUNNING")
            self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in settings.items()])
        except MlflowException as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"--track mlflow{f':{uri}' if uri else ''}: {reason}") from error
        self.given_up = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._try(lambda: self.client.log_batch(self.id, [self.metric(k, v, now, step) for k, v in metrics.items()]))

    def close(self, status: str) -> None:
        self._try(lambda: self.client.set_terminated(self.id, status))

    def _try(self, what: Callable[[], Any]) -> None:
        if self.given_up:
            return
        try:
            what()
        except self.failure as error:
            self.given_up = True
            say(f"mlflow: {str(error).partition(chr(10))[0]}; training continues without it")


class TensorBoard:
    """A directory of event files under `root`, one file per start of the training."""

    def __init__(self, root: Path, name: str, id: str):
        from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
            EventAccumulator,
        )
        from torch.utils.tensorboard import SummaryWriter

        folder = root / f"{name.replace(' ', '-')}-{id[:8]}"
        held = EventAccumulator(str(folder), {"scalars": 0}).Reload() if folder.exists() else None
        tags = held.Tags()["scalars"] if held is not None else []
        self.last = max((held.Scalars(tag)[-1].step for tag in tags), default=0) if held is not None else 0
        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, status: str) -> None:
        self.writer.close()
