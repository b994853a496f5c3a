"""A training's metrics in, a run of an experiment tracker out, beside the JSONL that every training writes.

Where: `mlflow` (what MLFLOW_TRACKING_URI names, else MLflow's own default), `mlflow:URI`, or `tensorboard:DIR`. A run
is known by an id that lies in the training's directory as long as it trains, so the next life of a killed training goes
on with the same run; the tracker is asked which steps that run has, and no step is reported twice.
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
"""MLflow's experiment, unless MLFLOW_EXPERIMENT_NAME says otherwise."""
TAG = "drivefoundry.run"


class Run(Protocol):
    """One training's place in a tracker. `last`: the last step that it holds, 0 where it holds none."""

    last: int

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self, status: str) -> None:
        """status: FINISHED or FAILED."""
        ...


def requested(where: str) -> str:
    """Itself, or ValueError where no tracker of that name is there; nothing is opened."""
    kind, _, place = where.partition(":")
    require(not where or kind in KINDS, f"--track {where}: no such tracker; give mlflow, mlflow:URI or tensorboard:DIR")
    require(kind != "tensorboard" or bool(place), f"--track {where}: say where to; give tensorboard:DIR")
    there = not where or find_spec(kind) is not None
    require(there, f"--track {where}: {kind} is not installed; pip install 'drivefoundry[{kind}]'")
    return where


@dataclass(frozen=True)
class Track:
    """Where a stage's metrics go besides, under which name, and what they were made with."""

    where: str = ""
    """As in `requested`; empty: nowhere."""
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def run(self, folder: Path, part: str = "") -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """The directory of a training, or of a `part` of a stage that trains twice, in; its callback out, which has
        rank 0 alone say something. The id lies in `folder` as a *.tmp, which the ledger does not keep."""
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
    """A run that bears the id as a tag. A tracker that fails while training goes on is given up with one line."""

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
            said = str(error).partition("\n")[0]
            raise ValueError(f"--track mlflow{f':{uri}' if uri else ''}: {said}") from error
        self.given_up = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._tell(lambda: self.client.log_batch(self.id, [self.metric(k, v, now, step) for k, v in metrics.items()]))

    def close(self, status: str) -> None:
        self._tell(lambda: self.client.set_terminated(self.id, status))

    def _tell(self, what: Callable[[], Any]) -> None:
        if self.given_up:
            return
        try:
            what()
        except self.failure as error:
            self.given_up = True
            say(f"mlflow: {str(error).partition(chr(10))[0]}; training goes on without it")


class TensorBoard:
    """A directory of event files under `root`, one file a life."""

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
