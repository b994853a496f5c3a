"""A car's records of releases (self-tests, boots, refusals) and its reports to the fleet.

releases.json has one Record per release, reports.json the last Reports. Both are read leniently: a damaged file counts
as empty, because a car must not be stopped by its records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivefoundry_car.durable import write_json
from drivefoundry_car.update.proof import load_object

RELEASES, REPORTS = "releases.json", "reports.json"
KEPT_REPORTS = 100
OLD_REFUSALS, OLD_TEST = "refused.json", "testing"
"""Files of an older layout: {release: why}, and the release whose self-test is running."""
OLD_INTERRUPTED = "its self test did not come to an end"
"""Refusals of the older layout that were not verdicts."""


@dataclass(frozen=True)
class Record:
    """Record of one release in one car."""

    attempts: int = 0
    """Consecutive self-tests that started and did not finish."""
    boots: int = 0
    """Consecutive boots by different processes that were neither reported healthy nor ended in an orderly way."""
    by: str = ""
    """The process of the last boot, see `process`."""
    good: bool = False
    """Whether it has driven long enough without a fault."""
    refused: str = ""
    """Why it must not be installed or booted; empty if it may."""
    published: int = 0
    """Publication (see `Updater`) that this record refers to. A later one lifts a refusal."""


@dataclass(frozen=True)
class Report:
    """An event for the fleet."""

    at: str
    """ISO 8601, UTC, by the car's clock."""
    what: str
    """refused, rolled back, or fell back (the other slot was booted this time, the release is not refused)."""
    release: str
    why: str
    now: str
    """Release that runs afterwards; empty for none."""


def load(folder: Path) -> dict[str, Record]:
    """Read release -> Record. Invalid entries are skipped; files of the older layout are read as well."""
    raw = load_object(folder / RELEASES)
    known = {release: record for release, value in raw.items() if (record := _record(value)) is not None}
    for release, why in load_object(folder / OLD_REFUSALS).items():
        if isinstance(why, str):  # written later than our own records, which replace it
            was = known.get(release, Record())
            no_verdict = why == OLD_INTERRUPTED
            known[release] = replace(was, attempts=1) if no_verdict else replace(was, refused=why or "refused")
    release = _old_test(folder)
    if release:
        was = known.get(release, Record())
        known[release] = replace(was, attempts=was.attempts + 1)
    return known


def save(folder: Path, records: Mapping[str, Record]) -> None:
    """Write all records, then delete the files of the older layout, which they include."""
    write_json(folder / RELEASES, {release: asdict(record) for release, record in records.items()})
    for old in (OLD_REFUSALS, OLD_TEST):
        (folder / old).unlink(missing_ok=True)


def report(folder: Path, what: str, release: str, why: str, now: str) -> None:
    """Add a Report."""
    made = Report(datetime.now(UTC).isoformat(timespec="seconds"), what, release, why, now)
    write_json(folder / REPORTS, {"reports": [asdict(each) for each in [*reports(folder), made][-KEPT_REPORTS:]]})


def reports(folder: Path) -> list[Report]:
    """The last Reports, oldest first."""
    listed = load_object(folder / REPORTS).get("reports")
    names = {field.name for field in fields(Report)}
    return [
        Report(**each)
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and set(each) == names and all(isinstance(v, str) for v in each.values())
    ]


def process() -> str:
    """Unique identifier of this process among all that have run or will run on this machine."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # in clock ticks since the boot
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.getpid()} {started}"


def _record(value: Any) -> Record | None:
    if not isinstance(value, dict):
        return None
    given = {field.name: value.get(field.name, field.default) for field in fields(Record)}
    return Record(**given) if all(type(given[f.name]) is type(f.default) for f in fields(Record)) else None


def _old_test(folder: Path) -> str:
    try:
        return (folder / OLD_TEST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
