"""Which release a car runs: its self-test before every drive, installing, falling and rolling back.

`SlotFiles` has the files; here are the rules. Only a release whose files are whole and signed and whose self-test has
passed becomes the current one. What a car remembers of releases is in `records`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drivefoundry_car.update import proof, records
from drivefoundry_car.update.records import Record, Report
from drivefoundry_car.update.selftest import LIMIT_S, Unfinished, self_test
from drivefoundry_car.update.slotfiles import MEND, Busy, Installed, SlotFiles, other

ATTEMPTS = 3
"""Self-tests of a release in a row that may be cut off before it is refused."""
BOOTS = 5
"""Boots of a new release in a row that may die before the other slot takes over."""
FAULTS = (RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError, ImportError)
"""Raised by a self-test that is itself at fault: no verdict on the release."""
HEALTHY_MIN = 10.0
"""Minutes of driving without a fault after which a release is good."""
BOOT_WAIT_S = 5.0
"""How long boot waits for an activation, s."""
INSTALL_WAIT_S = 2 * LIMIT_S + BOOT_WAIT_S
"""How long an activation waits for a boot, which may test both slots, s."""


@dataclass(frozen=True)
class Health:
    """What a car can tell the fleet of its releases. running: the current one, None for none (or a damaged one)."""

    running: str | None
    good: bool
    refused: dict[str, str]
    """release -> why this car does not install it."""
    reports: tuple[Report, ...]


class CutOff(ValueError):
    """A self-test did not come to an end: no verdict on the release."""


class Unfit(ValueError):
    """A release that is whole and yet must not run: it is refused as soon as another one runs in its place."""


class Slots(SlotFiles):
    """The two slots of one car.

    test: raises ValueError for an engine directory that must not run. Whatever else ends it (an exception, a kill, a
    power cut) says nothing about the engine and counts as one of ATTEMPTS; LIMIT_S without an end is a failure.
    root: the root.json that the car was shipped with; without it, releases are checked against the car's own copy.
    """

    def __init__(self, folder: str | Path, test: Callable[[Path], None] = self_test, *, root: bytes | None = None):
        super().__init__(folder, root)
        self.test = test
        self._stand_in = False
        """What this drive runs is not the current release, for which it says nothing."""

    def boot(self) -> Installed:
        """Choose what to drive with: the current release if it is whole and passes its self-test, else the one in the
        other slot, which is then the current one.

        A release that died in each of its last BOOTS boots and was never good gives way to the other slot. One that was
        refused is taken only where nothing else can run. Where the self-test is cut off, the other slot's release, if
        it may run and passes, drives this once, and `current` stays as it is. While somebody else changes the slots,
        boot waits BOOT_WAIT_S and then takes the current release, which passed its test before. ValueError where
        nothing can run.
        """
        try:
            with self.alone(BOOT_WAIT_S):
                chosen = self._choose()
                self._stand_in = chosen.slot != self.slot()
                if self._stand_in:
                    return chosen
                record, me = self._record(chosen.release), records.process()
                if record.by != me:  # a process that boots twice has not died
                    self._remember(chosen.release, boots=record.boots + 1, by=me)
                return chosen
        except Busy:
            slot = self.slot()
            if slot is None:
                raise
            return self.whole(slot)

    def healthy(self, minutes: float) -> bool:
        """Tell how long the current release has driven without a fault since the boot; whether it is good now.

        Call it every few minutes. From HEALTHY_MIN on the release is good and no longer rolled back by itself.
        """
        with self.alone(BOOT_WAIT_S):
            now = self.current()
            if now is None or self._stand_in:
                return False
            if minutes >= HEALTHY_MIN:
                self._remember(now.release, boots=0, good=True)
            return self._record(now.release).good

    def ended(self) -> None:
        """Tell that a drive has ended in order, however short it was: it does not count against the release."""
        with self.alone(BOOT_WAIT_S):
            now = self.current()
            if now is not None and not self._stand_in:
                self._remember(now.release, boots=0, by="")

    def rollback(self) -> Installed:
        """Run the other slot's release from now on, and do not install the present one before it is published again.

        ValueError where the other one cannot run; nothing has changed then.
        """
        with self.alone(BOOT_WAIT_S):
            slot = self.slot()
            if slot is None:
                raise ValueError(f"{self.folder}: no release is installed; nothing to roll back")
            try:
                self._fit(other(slot))
            except ValueError as e:
                raise ValueError(f"slot {slot} cannot be rolled back: slot {other(slot)} must not run ({e})") from e
            left = self.id_in(slot)
            now = self.activate(other(slot))
            if left and not self._remember(left, refused="rolled back"):  # a damaged one has no name to be known by
                raise ValueError(f"{self.folder}: rolled back, but the disk has no room to remember that; free some")
            self._report("rolled back", left, "by hand", now.release)
            return now

    def health(self) -> Health:
        """What the fleet should know: send it home after a boot or an update."""
        try:
            now = self.current()
        except ValueError:
            now = None
        known = records.load(self.folder)
        refused = {release: record.refused for release, record in known.items() if record.refused}
        good = now is not None and known.get(now.release, Record()).good
        return Health(now.release if now else None, good, refused, tuple(records.reports(self.folder)))

    # installing

    def vouch(self, listed: Callable[[str], bool], kept: dict[str, Any]) -> None:
        """Keep the newest proof for those releases in the slots that it lists."""
        for release in filter(None, map(self.id_in, "ab")):
            if listed(release):
                proof.keep(self.folder, release, kept)

    def install(
        self, release: str, fetch: Callable[[Path], None], published: int = 0, kept: dict[str, Any] | None = None
    ) -> Installed:
        """Test a release and make it the current one. fetch fills next/ with verified files, where no slot has it yet.

        published: the number of the publication that offers it; kept: its proof. ValueError, with `current` as it was,
        for a release that this car has refused (unless nothing else can run) and for one that fails its test.
        """
        self._admit(release, published)
        if kept is not None:
            proof.keep(self.folder, release, kept)
        ready = self.folder / self.spare()
        if not self.holds(ready.name, release):
            ready = self.next
            ready.mkdir(exist_ok=True)
            fetch(ready)
        try:
            self._try(release, ready / "engine")
        except CutOff:
            raise
        except ValueError as e:
            self._report("refused", release, str(e), self._running())
            raise
        with self.alone(INSTALL_WAIT_S):
            slot = self.spare()
            if ready == self.next:
                slot = self._dispensable()
                self.fill(slot)
            elif not self.holds(slot, release):
                raise Busy(f"{self.folder}: the slots have changed meanwhile; update again")
            now = self.activate(slot)
            self._remember(release, boots=0, refused="", published=published)
            self._forget()
            return now

    # inside

    def _choose(self) -> Installed:
        """The release to boot, made current."""
        slot = self.slot()
        order = [slot, other(slot)] if slot else [s for s in "ab" if (self.folder / s).is_dir()]
        if not order:
            raise ValueError(f"{self.folder}: no release is installed; {MEND}")
        why: dict[str, ValueError] = {}
        for each in order:
            try:
                return self._take(self._fit(each), slot, why)
            except CutOff:
                for rest in order[order.index(each) + 1 :]:
                    with suppress(ValueError):
                        return self._fit(rest)
                raise
            except ValueError as e:
                why[each] = e
        # Rather one that was refused than none, the one whose self-test was cut off least often first.
        for each in sorted(order, key=lambda s: self._record(self.id_in(s)).attempts):
            with suppress(ValueError):
                held = self.whole(each)
                self._try(held.release, held.engine)
                return self._take(held, slot, why)
        raise ValueError(", nor may ".join([f"slot {s}{' must not run' * (s == order[0])} ({why[s]})" for s in order]))

    def _take(self, chosen: Installed, slot: str | None, why: dict[str, ValueError]) -> Installed:
        """Make a slot current, if it is not, and tell why the one that was is not."""
        if chosen.slot == slot:
            return chosen
        left = self.id_in(slot) if slot else ""
        reason = why[slot] if slot else ValueError("`current` named no slot")
        now = self.activate(chosen.slot)
        if isinstance(reason, Unfit):
            self._remember(left, refused=str(reason).removeprefix(_refused_here(left)))
        what = "rolled back" if self._record(left).refused else "fell back"
        self._report(what, left, str(reason), now.release)
        return now

    def _fit(self, slot: str) -> Installed:
        """The release of a slot that may run. ValueError says why it must not."""
        held = self.whole(slot)
        record = self._record(held.release)
        why = _refusal(record)
        if why:
            raise (ValueError if record.refused else Unfit)(_refused_here(held.release) + why)
        if record.boots >= BOOTS and not record.good and slot == self.slot():
            raise Unfit(f"release {held.release} died in each of {record.boots} boots in a row")
        self._try(held.release, held.engine)
        return held

    def _admit(self, release: str, published: int) -> None:
        """ValueError for a refused release, unless it has been published anew since or nothing else can run."""
        with self.alone(INSTALL_WAIT_S):
            record = self._record(release)
            if published > record.published:
                self._remember(release, attempts=0, boots=0, refused="", published=published)
                return
            why, slot = _refusal(record), self.slot()
            if not why or slot is None:
                return
            with suppress(ValueError):
                self.whole(slot)
                why = f"{_refused_here(release)}{why}; publish a mended one, or this one again"
                slot = None
            if slot is None:
                raise ValueError(why)

    def _try(self, release: str, engine: Path) -> None:
        """Run the self-test. The attempt is on the disk before it begins, so that it counts whatever happens."""
        with self.alone(INSTALL_WAIT_S):
            attempt = self._record(release).attempts + 1
            self._remember(release, attempts=attempt)
        try:
            within(self.test, engine, LIMIT_S + 10)
        except (Unfinished, MemoryError, OSError, *FAULTS) as e:
            why = " ".join(f"{type(e).__name__}: {e}".split()).removesuffix(":")
            raise CutOff(f"release {release}: its self-test was cut off ({why}), attempt {attempt}; try again") from e
        except ValueError as e:
            with self.alone(INSTALL_WAIT_S):
                self._remember(release, attempts=0, refused=str(e))
            raise ValueError(f"release {release} fails its self-test: {e}") from e
        with self.alone(INSTALL_WAIT_S):
            self._remember(release, attempts=0)

    def _dispensable(self) -> str:
        """The slot to fill: the one not in use, unless the current one is damaged and so the worse of the two."""
        slot = self.slot()
        if slot is not None:
            with suppress(ValueError):
                self.whole(slot)
                return other(slot)
        return slot or self.spare()

    def _running(self) -> str:
        slot = self.slot()
        return self.id_in(slot) if slot else ""

    def _record(self, release: str) -> Record:
        return records.load(self.folder).get(release, Record())

    def _remember(self, release: str, **changes: Any) -> bool:
        """Change a release's record. False where that did not reach the disk: a car drives with a full one as well."""
        known = records.load(self.folder)
        known[release] = replace(known.get(release, Record()), **changes)
        try:
            records.save(self.folder, known)
        except OSError:
            return False
        return True

    def _report(self, what: str, release: str, why: str, now: str) -> None:
        with suppress(OSError):
            records.report(self.folder, what, release, why, now)

    def _forget(self) -> None:
        """Drop proofs and records of releases that are in no slot; what was refused stays known."""
        here = {self.id_in("a"), self.id_in("b")}
        known = records.load(self.folder)
        with suppress(OSError):
            records.save(self.folder, {k: v for k, v in known.items() if k in here or _refusal(v)})
        for path in (self.folder / proof.FOLDER).glob("*.json"):
            if path.stem not in here:
                path.unlink(missing_ok=True)


def _refused_here(release: str) -> str:
    return f"release {release} was refused by this car: "


def _refusal(record: Record) -> str:
    """Why a release must not run, empty where it may."""
    if record.refused or record.attempts < ATTEMPTS:
        return record.refused
    return f"its self-test was cut off {record.attempts} times in a row"


def within(test: Callable[[Path], None], engine: Path, limit_s: float) -> None:
    """Run a test, for limit_s at most. What it raises comes out; ValueError where it has not ended by then."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            test(engine)
        except BaseException as e:  # every one is raised again, by who waits
            raised.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise ValueError(f"{engine}: the self-test has not ended within {limit_s:g} s")
    if raised:
        raise raised[0]
