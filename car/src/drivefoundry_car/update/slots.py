"""Which release a car runs: self-test before every drive, installation, fallback and rollback.

`SlotFiles` handles the files; this module is the policy. Only a release with complete, signed files and a passed
self-test becomes current. A car's records of releases are in `records`.
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
from drivefoundry_car.update.slotfiles import FIX, Busy, Installed, SlotFiles, other

ATTEMPTS = 3
"""Consecutive interrupted self-tests after which a release is refused."""
BOOTS = 5
"""Consecutive failed boots of a new release after which the other slot takes over."""
FAULTS = (RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError, ImportError)
"""Errors of the self-test itself, which are not a verdict on the release."""
HEALTHY_MIN = 10.0
"""Minutes of driving without a fault after which a release is good."""
BOOT_WAIT_S = 5.0
"""Longest wait of a boot for an activation, s."""
INSTALL_WAIT_S = 2 * LIMIT_S + BOOT_WAIT_S
"""Longest wait of an activation for a boot, which may test both slots, s."""


@dataclass(frozen=True)
class Health:
    """A car's report on its releases. running: the current one, None if there is none or it is damaged."""

    running: str | None
    good: bool
    refused: dict[str, str]
    """release -> why this car does not install it."""
    reports: tuple[Report, ...]


class CutOff(ValueError):
    """A self-test was interrupted, which is not a verdict on the release."""


class Unfit(ValueError):
    """A complete release that must not run: it is refused as soon as another one runs in its place."""


class Slots(SlotFiles):
    """The two slots of one car.

    test: raises ValueError for an engine directory that must not run. Any other end (an exception, a kill, a power cut)
    says nothing about the engine and counts as one of ATTEMPTS; exceeding LIMIT_S is a failure.
    root: the root.json that the car was shipped with; without it, releases are checked against the car's own copy.
    """

    def __init__(self, folder: str | Path, test: Callable[[Path], None] = self_test, *, root: bytes | None = None):
        super().__init__(folder, root)
        self.test = test
        self._stand_in = False
        """Whether this drive runs another than the current release and so says nothing about it."""

    def boot(self) -> Installed:
        """Choose the release to drive with: the current one if it is complete and passes its self-test, else the one in
        the other slot, which then becomes current.

        A release that died in each of its last BOOTS boots and was never good is replaced by the other slot. A refused
        one is used only if nothing else can run. If the self-test is interrupted, the other slot's release, if it may
        run and passes, drives this once, and `current` is unchanged. While another process changes the slots, boot
        waits BOOT_WAIT_S and then takes the current release, which passed its test earlier. ValueError if nothing can
        run.
        """
        try:
            with self.alone(BOOT_WAIT_S):
                chosen = self._choose()
                self._stand_in = chosen.slot != self.slot()
                if self._stand_in:
                    return chosen
                record, me = self._record(chosen.release), records.process()
                if record.by != me:  # a process that boots twice did not die
                    self._remember(chosen.release, boots=record.boots + 1, by=me)
                return chosen
        except Busy:
            slot = self.slot()
            if slot is None:
                raise
            return self.whole(slot)

    def healthy(self, minutes: float) -> bool:
        """Report how long the current release has driven without a fault since the boot; return whether it is good now.

        Call it every few minutes. From HEALTHY_MIN on the release is good and no longer rolled back automatically.
        """
        with self.alone(BOOT_WAIT_S):
            now = self.current()
            if now is None or self._stand_in:
                return False
            if minutes >= HEALTHY_MIN:
                self._remember(now.release, boots=0, good=True)
            return self._record(now.release).good

    def ended(self) -> None:
        """Report the orderly end of a drive, however short: it does not count against the release."""
        with self.alone(BOOT_WAIT_S):
            now = self.current()
            if now is not None and not self._stand_in:
                self._remember(now.release, boots=0, by="")

    def rollback(self) -> Installed:
        """Switch to the other slot's release, and refuse the present one until it is published again.

        ValueError, with nothing changed, if the other one cannot run.
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
            if left and not self._remember(left, refused="rolled back"):  # a damaged one has no id
                raise ValueError(
                    f"{self.folder}: rolled back, but the disk is too full to record that; free some space"
                )
            self._report("rolled back", left, "by hand", now.release)
            return now

    def health(self) -> Health:
        """Report for the fleet, to be sent after a boot or an update."""
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
        """Store the newest proof for those releases in the slots that it lists."""
        for release in filter(None, map(self.id_in, "ab")):
            if listed(release):
                proof.keep(self.folder, release, kept)

    def install(
        self, release: str, fetch: Callable[[Path], None], published: int = 0, kept: dict[str, Any] | None = None
    ) -> Installed:
        """Test a release and make it current. fetch fills next/ with verified files, unless a slot already has it.

        published: number of the publication that offers it; kept: its proof. ValueError, with `current` unchanged, for
        a release that this car has refused (unless nothing else can run) and for one that fails its test.
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
                raise Busy(f"{self.folder}: the slots changed during the update; update again")
            now = self.activate(slot)
            self._remember(release, boots=0, refused="", published=published)
            self._forget()
            return now

    # inside

    def _choose(self) -> Installed:
        """Choose the release to boot and make it current."""
        slot = self.slot()
        order = [slot, other(slot)] if slot else [s for s in "ab" if (self.folder / s).is_dir()]
        if not order:
            raise ValueError(f"{self.folder}: no release is installed; {FIX}")
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
        # A refused release is better than none; prefer the one with the fewest interrupted self-tests.
        for each in sorted(order, key=lambda s: self._record(self.id_in(s)).attempts):
            with suppress(ValueError):
                held = self.whole(each)
                self._try(held.release, held.engine)
                return self._take(held, slot, why)
        raise ValueError(", nor may ".join([f"slot {s}{' must not run' * (s == order[0])} ({why[s]})" for s in order]))

    def _take(self, chosen: Installed, slot: str | None, why: dict[str, ValueError]) -> Installed:
        """Make a slot current if it is not, and report why the previous one is not any more."""
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
        """Return a slot's release if it may run. ValueError says why not."""
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
        """Raise ValueError for a refused release, unless it has been published again since or nothing else can run."""
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
                why = f"{_refused_here(release)}{why}; publish a fixed one, or this one again"
                slot = None
            if slot is None:
                raise ValueError(why)

    def _try(self, release: str, engine: Path) -> None:
        """Run the self-test. The attempt is recorded first, so that it counts whatever happens."""
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
        """The slot to overwrite: the one not in use, unless the current one is damaged."""
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
        """Change a release's record. False if the disk did not take it: a car must drive with a full disk as well."""
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
        """Drop proofs and records of releases that are in no slot, except refusals."""
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
    """Why a release must not run, empty if it may."""
    if record.refused or record.attempts < ATTEMPTS:
        return record.refused
    return f"its self-test was cut off {record.attempts} times in a row"


def within(test: Callable[[Path], None], engine: Path, limit_s: float) -> None:
    """Run a test with a time limit and re-raise its exception; ValueError if it takes longer than limit_s."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            test(engine)
        except BaseException as e:  # re-raised by the waiting caller
            raised.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise ValueError(f"{engine}: the self-test has not ended within {limit_s:g} s")
    if raised:
        raise raised[0]
