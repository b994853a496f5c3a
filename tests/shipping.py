"""A release repository, its keys and cars, with engines replaced by a few bytes."""

import json
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from drivefoundry.judge.gate import Gate, judge, save_verdict
from drivefoundry.release import Release, create_repository, publish, sign
from drivefoundry_car.update.client import Updater


class Line:
    """A repository, its keys and one car beside it."""

    def __init__(self, folder: Path):
        self.folder, self.repo, self.keys = folder, folder / "repo", folder / "keys"
        self.root = create_repository(self.repo, self.keys)
        self.verdict = folder / "verdict.json"
        gate = Gate("collision", at_most=0.1)
        save_verdict(self.verdict, judge("int8", ["s1"], {"int8": {"collision": np.zeros(1)}}, (gate,)))

    def publish(self, name: str, *, cohort: str = "all", percent: int = 100, now: datetime | None = None) -> Release:
        engine = self.folder / f"engine-{name}"
        engine.mkdir(exist_ok=True)
        (engine / "weights.bin").write_bytes(name.encode() * 50_000)
        (engine / "io.json").write_text(json.dumps({"name": name}))
        with nullcontext() if now is None else patch.object(sign, "utc", return_value=now):
            return publish(self.repo, self.keys, engine, self.verdict, name, cohort, percent)

    def car(
        self, source: Path | str | None = None, *, vehicle: str = "", cohort: str = "all", root: bytes | None = None
    ) -> Updater:
        folder = self.folder / f"car{vehicle}"
        at = self.repo if source is None else source
        return Updater(
            folder / "tuf", folder / "slots", at, root or self.root, vehicle=vehicle, cohort=cohort, test=loads
        )


def loads(engine: Path) -> None:
    """Self-test of these engines: the description must identify them and not be a lemon."""
    name = json.loads((engine / "io.json").read_text())["name"]
    if name.startswith("lemon"):
        raise ValueError(f"{engine}: a lemon")
    if name.startswith("crash"):
        raise SystemExit(139)


def running(car: Updater) -> str | None:
    """The release that a process started now would load, by its weights."""
    now = car.slots.current()
    if now is None:
        return None
    link = (car.slots.folder / "current" / "engine" / "weights.bin").read_bytes()
    assert link == (now.engine / "weights.bin").read_bytes()
    return link[: len(link) // 50_000].decode()


def refused(car: Updater, match: str) -> None:
    """The update fails with one line, and the running release and its slot are unchanged."""
    now = car.slots.current()
    before = {p: p.read_bytes() for p in sorted(now.engine.rglob("*")) if p.is_file()} if now else {}
    with pytest.raises(ValueError, match=match) as caught:
        car.update()
    assert "\n" not in str(caught.value)
    assert car.slots.current() == now
    assert {p: p.read_bytes() for p in before} == before
