"""Sign an engine and its verdict as a release, and update a car, which verifies and activates it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from drivefoundry.judge.gate import load_verdict
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.release import Keys, create_repository, publish, verify
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import write_json
from drivefoundry_car.update.client import EVERYONE, Updater

TEST_CARS = "safety-driver"
"""Cohort of cars with a safety driver. They get every release, so that the next one can learn from it."""


def release(line: RunContext, turn: int, engine: Artefact, verdict: Artefact, before: Artefact | None) -> Artefact:
    """Sign the engine as a release in the repository of all releases."""
    keys, ago = Keys.apart(line.out / "keys"), before.path if before else None
    return line.make(
        turn, "release", "release", {}, [engine, verdict, before],
        lambda d: sign_release(engine.path, verdict.path, ago, keys, f"turn-{turn}", d),
    )  # fmt: skip


def car(line: RunContext, turn: int, released: Artefact, parked: Artefact | None) -> Artefact:
    """A car of the test fleet after its update to the release; every signature and byte is checked each time."""
    try:
        if not line.dry:
            verify(released.path / "repo")
    except ValueError as error:
        raise ValueError(f"{error}, or delete {released.path} and run again to rebuild it") from None
    ago = parked.path if parked else None
    return line.make(
        turn, "car", "car", {}, [released, parked], lambda d: update_car(released.path, ago, d)
    )  # fmt: skip


def sign_release(engine: Path, verdict: Path, before: Path | None, keys: Keys, name: str, out: Path) -> dict:
    """Sign an engine and its verdict; write out/repo (a TUF repository of all releases so far), root.json and
    release.json. before: artefact of the previous release; keys: folders of the signing keys.

    Cars with a safety driver always get the release; all cars get it only if no gate blocks it: none failed, and none
    that holds a release was left undecided (`judge.gates.undecided`).
    """
    fresh(out)
    if before is not None:
        shutil.copytree(before / "repo", out / "repo")
    root = create_repository(out / "repo", keys)
    (out / "root.json").write_bytes(root)
    judged = load_verdict(verdict / "verdict.json")
    published = publish(out / "repo", keys, engine, verdict / "verdict.json", name, TEST_CARS, allow_failed=True)
    cohorts = [TEST_CARS]
    if judged.passed:
        publish(out / "repo", keys, engine, verdict / "verdict.json", name, EVERYONE)
        cohorts.append("all cars")
    write_json(out / "release.json", {"id": published.id, "name": name, "passed": judged.passed, "cohorts": cohorts})
    return {
        "release": published.id[:12],
        "gates": judged.state,
        "cohorts": " and ".join(cohorts),
    }


def update_car(released: Path, before: Path | None, out: Path) -> dict:
    """Update a car (`before`, or a new one) to a release; write its metadata and A/B slots after verification."""
    fresh(out)
    if before is not None:
        for part in ("metadata", "slots"):
            shutil.copytree(before / part, out / part, symlinks=True)
    root = (released / "root.json").read_bytes()
    updater = Updater(out / "metadata", out / "slots", released / "repo", root, vehicle="car-00", cohort=TEST_CARS)
    installed = updater.update()
    assert installed is not None, "the repository offers the test cars its newest release"
    offered = json.loads((released / "release.json").read_text())["id"]
    assert installed.release == offered, f"the car runs {installed.release}, the repository offers {offered}"
    engine = installed.engine.relative_to(out.resolve() if installed.engine.is_absolute() else out)
    write_json(out / "car.json", {"release": offered, "engine": engine.as_posix()})
    return {"release": offered[:12], "slot": engine.parts[1]}


def engine_in(car: Path) -> tuple[Path, str]:
    """The engine directory that a car artefact runs, and the release's id."""
    state = json.loads((car / "car.json").read_text())
    return car / state["engine"], state["release"]
