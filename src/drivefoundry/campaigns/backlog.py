"""Campaigns over stored drives: what fires where, and what each campaign has yielded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drivefoundry.clips.importers.folder import MAPS, drive_files, drives_in, read_file, sound
from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import load_curated
from drivefoundry.ledger import Ledger
from drivefoundry.progress import warn
from drivefoundry.roadmap import load_map
from drivefoundry.runs import named
from drivefoundry.types import require
from drivefoundry_car.log import Drive, clock, cut
from drivefoundry_car.triggers import Campaign, Watch, applies
from drivefoundry_car.triggers.novelty import Sent, embedding
from drivefoundry_car.triggers.rules import cost, signals_in, unit_of
from drivefoundry_car.triggers.signals import SIGNALS, SignalContext, signals_of


@dataclass(frozen=True)
class StoredDrive:
    """A stored drive with its name, bytes (0: unknown) and, if its map is available, the stop lines (G, 4)."""

    name: str
    drive: Drive
    bytes: int
    stop_lines: np.ndarray | None


@dataclass(frozen=True)
class Fired:
    """One firing: drive, t s on its clock, values of the rule's signals."""

    drive: str
    t: float
    campaign: str
    values: dict[str, float]


@dataclass(frozen=True)
class Tested:
    """Result of running campaigns over drives: hours driven, bytes recorded (0: unknown), all firings, and for each
    campaign the number of drives that lacked each signal it needs."""

    drives: int
    hours: float
    bytes: int
    fired: list[Fired]
    lacking: dict[str, Counter[str]]


def all_drives_at(
    whats: Sequence[Path], video: bool = False, left_out: Callable[[str], object] = warn
) -> Iterator[StoredDrive]:
    """Read the drives at several paths, see `drives_at`. A path without a readable drive is skipped and reported to
    left_out; ValueError if none has one."""
    bad: list[str] = []
    found = False
    for what in whats:
        try:
            for recorded in drives_at(what, video, left_out):
                found = True
                yield recorded
        except ValueError as error:
            if len(whats) == 1:
                raise
            bad.append(str(error))
            left_out(f"left out: {error}")
    if bad and not found:
        raise ValueError(f"none of the {len(whats)} paths has a drive that can be read; the first: {bad[0]}")


def drives_at(what: Path, video: bool = False, left_out: Callable[[str], object] = warn) -> Iterator[StoredDrive]:
    """Read the drives of a file, a folder of drives or of logs that an importer knows, a clip store, or a run (the
    drives that its fleet recorded; or RUN:fleet:TURN, see `runs.named`), optionally with video.

    A damaged one among several is skipped, and left_out receives the reason in one line. ValueError if none is
    readable.
    """
    if ":" in str(what) and not what.exists():
        what = named.resolved(what).path
    if (what / "ledger.db").exists():
        with Ledger.reading(what) as ledger:
            folders = [a.path for a in ledger.history() if a.kind in ("fleet", "outings", "import")]
        files = [f for folder in folders for f in drive_files(folder)]
        require(len(files) > 0, f"{what}: this run has recorded no drives yet; give its clips ({what}/clips)")
    elif (what / "clips.lance").exists():
        store = ClipStore(what)
        rows = store.rows(["id", "bytes"]).to_pydict()
        clips = [
            (what / clip, lambda clip=clip, size=size: _in_store(store, clip, size, video))
            for clip, size in zip(rows["id"], rows["bytes"], strict=True)
        ]
        yield from (r for _, r in sound(what, clips, left_out))
        return
    else:
        require(what.exists(), f"{what}: no such file or folder; give drives, a run or a clip store")
        files = drive_files(what) if what.is_dir() or what.suffix == ".mcap" else []
        if not files:  # logs of another kind
            for d in drives_in(what, video=video, left_out=left_out):
                yield StoredDrive(d.meta.get("drive", ""), d, 0, None)
    readers = [(f, lambda f=f: _recorded(f, video, left_out)) for f in files]
    yield from (r for _, r in sound(what, readers, left_out))


def _recorded(file: Path, video: bool, left_out: Callable[[str], object]) -> StoredDrive:
    """Read an MCAP drive, and its map if it is stored beside it."""
    drive = read_file(file, video=video)
    maps = [folder / MAPS / f"{drive.meta.get('map', '')}.safetensors" for folder in (file.parent, file.parent.parent)]
    stops = None
    for path in (p for p in maps if p.exists()):
        try:
            stops = load_map(path.read_bytes()).stop_lines
            break
        except ValueError as error:
            left_out(f"left out: {path}: {error}; {file} is read without its stop lines")
    return StoredDrive(file.stem, drive, file.stat().st_size, stops)


def _in_store(store: ClipStore, clip: str, size: int, video: bool) -> StoredDrive:
    drive = store.drive(clip, video=video)
    name = f"{drive.meta.get('drive', '')}@{drive.t[0]:.0f}s"
    return StoredDrive(name, drive, size, _stops_in_store(store, drive.meta.get("map", "")))


def _stops_in_store(store: ClipStore, map_id: str) -> np.ndarray | None:
    try:
        return load_map(store.get_map(map_id)).stop_lines if map_id else None
    except ValueError:  # the map is elsewhere
        return None


def mine(campaigns: Sequence[Campaign], drives: Iterator[StoredDrive], sent: Sent | None = None) -> Tested:
    """Run campaigns over drives. sent: what the fleet has uploaded, for the signal `novelty`."""
    fired: list[Fired] = []
    lacking: dict[str, Counter[str]] = defaultdict(Counter)
    count, seconds, size, known = 0, 0.0, 0, True
    for r in drives:
        for a, b in clock.runs(r.drive.t):  # a rule cannot be assumed to hold across a gap
            whole = b - a == len(r.drive.t)
            part = r.drive if whole else cut(r.drive, float(r.drive.t[a]), float(r.drive.t[b - 1]) + clock.EDGE_S)
            lacks, some = _fired(campaigns, part, r.name, SignalContext(r.stop_lines, sent))
            fired += some
            if not a:
                for name, signals in lacks.items():
                    lacking[name].update(signals)
            seconds += float(part.t[-1] - part.t[0])
        count += 1
        size, known = size + r.bytes, known and r.bytes > 0
    return Tested(count, seconds / 3600, size if known else 0, fired, dict(lacking))


def _fired(
    campaigns: Sequence[Campaign], drive: Drive, name: str, context: SignalContext
) -> tuple[dict[str, tuple[str, ...]], list[Fired]]:
    """Which campaigns lack which signals, and what fired, in one gapless stretch of a drive."""
    values = signals_of(drive, context)
    watch = Watch([c for c in campaigns if applies(c, drive)], list(values))
    of = {c.name: c for c in watch.campaigns}
    fired = []
    for f in watch.run(drive.t, np.array(list(values.values()), np.float64)):
        tree = of[f.campaign].tree
        assert tree is not None
        i = int(np.searchsorted(drive.t, f.t))
        fired.append(Fired(name, f.t, f.campaign, {s: float(values[s][i]) for s in sorted(signals_in(tree))}))
    return watch.lacking, fired


def what_was_sent(store: ClipStore, left_out: Callable[[str], object] = warn) -> Sent:
    """Embed samples of all clips of a store, the reference for novelty. A damaged clip is skipped, and left_out
    receives the reason in one line; ValueError if none is readable."""
    sent = Sent()
    clips = [(Path(clip), lambda clip=clip: store.drive(clip, video=False)) for clip in store.ids()]
    for _, drive in sound(Path(str(store.url)), clips, left_out):
        sent.add(embedding(signals_of(drive)))
    return sent


@dataclass(frozen=True)
class Yield:
    """What one campaign yielded; kept of judged: after curation, if there was one."""

    campaign: str
    clips: int
    seconds: float
    bytes: int
    judged: int
    kept: int


def yields(what: Path) -> list[Yield]:
    """What each campaign yielded in a run or a clip store, most clips first."""
    run = (what / "ledger.db").exists()
    url = what / "clips" if run else what
    require((url / "clips.lance").exists(), f"{what}: no run with clips and no clip store; ingest some first")
    kept: set[str] = set()
    judged: set[str] = set()
    if run:
        with Ledger.reading(what) as ledger:
            curations = [load_curated(a.path / "curated") for a in ledger.history() if a.kind == "curate"]
        kept = {i for c in curations for i in c.kept}
        judged = kept | {i for c in curations for i in c.dropped}
    found: dict[str, Yield] = {}
    rows = ClipStore(url).rows(["id", "campaign", "duration", "bytes"]).to_pylist()
    for row in rows:
        name = row["campaign"] or "(none)"
        y = found.get(name, Yield(name, 0, 0.0, 0, 0, 0))
        found[name] = replace(
            y,
            clips=y.clips + 1,
            seconds=y.seconds + row["duration"],
            bytes=y.bytes + row["bytes"],
            judged=y.judged + (row["id"] in judged),
            kept=y.kept + (row["id"] in kept),
        )
    return sorted(found.values(), key=lambda y: (-y.clips, y.campaign))


def check_table(campaigns: Sequence[Campaign]) -> str:
    """One line per campaign: its settings, cost and signals."""
    rows = [("campaign", "priority", "clip", "cooldown", "a day", "cohort", "until", "cost", "signals")]
    for c in campaigns:
        clip = f"{c.before_s:g} + {c.after_s:g} s" if c.tree else c.pick
        needs = ", ".join(sorted(signals_in(c.tree))) if c.tree else "-"
        budget = "-" if c.bytes_per_day is None else megabytes(c.bytes_per_day)
        rows.append(
            (c.name, str(c.priority), clip, f"{c.cooldown_s:g} s", budget, " ".join(c.cohort) or "all",
             str(c.until or "-"), f"{cost(c.tree):,}" if c.tree else "-", needs)
        )  # fmt: skip
    return aligned(rows)


def fired_table(tested: Tested, most: int) -> str:
    """One line per firing, for the first `most`."""
    rows = [("drive", "t", "campaign", "then")]
    for f in tested.fired[:most]:
        rows.append((f.drive, f"{f.t:.1f} s", f.campaign, ", ".join(_said(*v) for v in f.values.items())))
    more = len(tested.fired) - most
    return aligned(rows) + (f"\n... and {more} more" if more > 0 else "")


def totals_table(campaigns: Sequence[Campaign], tested: Tested, hours_a_day: float) -> str:
    """One line per campaign, the busiest first: firings, bytes per car, and missing signals.

    Bytes a day: firings per hour x share x clip window x these drives' bytes per second. Overlapping clips are sent
    once, so this is an upper bound.
    """
    rows = [("campaign", "fired", "in drives", "an hour", "a day", "of", "lacks")]
    rate = tested.bytes / max(tested.hours * 3600, 1e-9)
    of = {c.name: [f for f in tested.fired if f.campaign == c.name] for c in campaigns if c.tree}
    for c in sorted((c for c in campaigns if c.tree), key=lambda c: (-len(of[c.name]), c.name in tested.lacking)):
        fired = of[c.name]
        hourly = len(fired) / max(tested.hours, 1e-9)
        daily = hourly * hours_a_day * c.share * (c.before_s + c.after_s) * rate
        lacks = ", ".join(f"{s} ({n} of {tested.drives})" for s, n in sorted(tested.lacking.get(c.name, {}).items()))
        rows.append(
            (c.name, str(len(fired)), str(len({f.drive for f in fired})), f"{hourly:.1f}",
             megabytes(daily) if tested.bytes else "-",
             "-" if c.bytes_per_day is None else megabytes(c.bytes_per_day), lacks or "-")
        )  # fmt: skip
    return aligned(rows)


def yield_table(found: Sequence[Yield]) -> str:
    """One line per campaign, and a total."""
    rows = [("campaign", "clips", "minutes", "bytes", "a clip", "kept")]
    total = Yield("all", *(sum(getattr(y, n) for y in found) for n in ("clips", "seconds", "bytes", "judged", "kept")))
    for y in (*found, total):
        kept = f"{y.kept} of {y.judged} ({y.kept / y.judged:.0%})" if y.judged else "-"
        each = megabytes(y.bytes / y.clips) if y.clips else "-"
        rows.append((y.campaign, str(y.clips), f"{y.seconds / 60:.1f}", megabytes(y.bytes), each, kept))
    return aligned(rows)


def megabytes(n: float) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB"


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Align cells in columns; columns of numbers are right-aligned."""
    columns = list(zip(*rows, strict=True))
    wide = [max(map(len, c)) for c in columns]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in c[1:]) and len(c) > 1 for c in columns]
    place = [str.rjust if r else str.ljust for r in right]
    return "\n".join("  ".join(p(c, w) for p, c, w in zip(place, row, wide, strict=True)).rstrip() for row in rows)


def _said(name: str, value: float) -> str:
    """'accel_lon -4.3 m/s^2', 'takeover'."""
    kind = SIGNALS[name]
    if kind == "flag":
        return name if value else f"no {name}"
    return f"{name} {value:.3g} {unit_of(kind)}".rstrip()
