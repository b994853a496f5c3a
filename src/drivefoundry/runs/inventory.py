"""A run directory in; what is in it, what goes on there, and what of it nothing needs any more, out."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.runs import links
from drivefoundry.runs.asked import current, remembered
from drivefoundry.runs.named import artefacts, turn_of
from drivefoundry.types import require

PROGRESS = "progress.json"
"""What a running run is at, see `progress.kept`."""
COLUMNS = ("turn", "stage", "size", "seconds", "id", "name")


def listing(run: Path, *, all_of_them: bool = False) -> list[dict[str, Any]]:
    """A row an artefact: turn, stage, bytes, seconds, id, name, path; of those that the last run used, in its order, or
    of all that are there, the oldest first. ValueError where no run is."""
    used = current(run)
    every = artefacts(run)
    if used and not all_of_them:
        every = [a for a in every if a.id in used]
    last = {(a.kind, turn): a.id for a in artefacts(run) for turn in (turn_of(a), None)}
    return [_row(run, a, last) for a in every]


def _row(run: Path, a: Artefact, last: dict[tuple[str, int | None], str]) -> dict[str, Any]:
    """last: the artefact that a kind and a turn, or None for any, name."""
    turn = turn_of(a)
    name = f"{run}:{a.kind}:{turn}" if turn else f"{run}:{a.kind}"
    if last[a.kind, turn] != a.id:
        name = f"{run}:{a.id[:12]}"
    row = {"turn": turn, "stage": a.kind, "bytes": a.bytes, "seconds": round(a.seconds, 1), "id": a.id}
    return {**row, "name": name, "path": a.path, "policy": a.info.get("policy", "")}


def table(rows: list[dict[str, Any]]) -> str:
    """One line an artefact."""
    cells = [COLUMNS] + [
        (
            str(r["turn"] or "-"), f"{r['stage']} {r['policy']}".strip(), megabytes(r["bytes"]), f"{r['seconds']:.1f}",
            r["id"][:12], r["name"],
        )
        for r in rows
    ]  # fmt: skip
    wide = [max(len(row[c]) for row in cells) for c in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells)


def builder(run: Path) -> int | None:
    """The process that builds in a run now, None where none does; takes no lock. Where the system lists no locks, a
    process of the number that the lock file has counts."""
    file, locks = run / "lock", Path("/proc/locks")
    pid = file.read_text().strip() if file.is_file() else ""
    if not pid.isdecimal():
        return None
    if locks.exists():
        rows = [row.split() for row in locks.read_text().splitlines() if "FLOCK" in row]
        held = any(row[-3].endswith(f":{file.stat().st_ino}") for row in rows)
        return int(pid) if held else None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return int(pid)


def status(run: Path, *, verify: bool = False) -> dict[str, Any]:
    """Whether a process builds in a run (pid), at what and how far it is, what is there, and the disk: bytes of the run
    by part and bytes free. damaged: paths of artefacts whose bytes are not those that were made, None unless verify."""
    with Ledger.reading(run) as ledger:
        pid, every = builder(run), ledger.history()
        damaged = [a.path for a in ledger.damaged()] if verify else None
    now = None
    if pid is not None and (run / PROGRESS).is_file():
        now = json.loads((run / PROGRESS).read_text())
    parts = {p.name: _bytes(p) for p in sorted(run.iterdir()) if p.is_dir() and not p.is_symlink()}
    asked = remembered(run)
    return {
        "run": run, "running": pid is not None, "pid": pid, "now": now, "recipe": asked.recipe.name if asked else None,
        "artefacts": len(every), "turns": max((turn_of(a) or 0 for a in every), default=0),
        "last_finished": max((a.finished for a in every), default=None), "bytes": parts,
        "free_bytes": shutil.disk_usage(run).free, "damaged": damaged,
    }  # fmt: skip


def status_text(told: dict[str, Any]) -> str:
    """The same in a few lines."""
    doing = f"process {told['pid']} is building" if told["running"] else "nothing is running"
    lines = [f"{told['run']}: {doing}"]
    if now := told["now"]:
        lines.append(f"  at {now['stage']}, for {time.time() - now['since']:.0f} s")
        for one in now["bars"]:
            left = "" if one["left_s"] is None else f", {one['left_s']:.0f} s left"
            lines.append(f"    {one['what']}: {one['done']}/{one['total']}{left}")
    recipe = f"recipe {told['recipe']}, " if told["recipe"] else ""
    ago = "" if told["last_finished"] is None else f", the last {_ago(time.time() - told['last_finished'])} ago"
    lines.append(f"  {recipe}{told['artefacts']} artefacts of {told['turns']} turns{ago}")
    disk = ", ".join(f"{name} {megabytes(n)}" for name, n in told["bytes"].items() if n)
    lines.append(f"  disk: {disk}; {megabytes(told['free_bytes'])} free")
    if (damaged := told["damaged"]) is not None:
        lines += [f"  damaged: {path}; the next run makes it anew" for path in damaged] or [
            "  every byte is as it was made"
        ]
    return "\n".join(lines)


def garbage(run: Path) -> dict[Path, int]:
    """Directory -> bytes of what the recipe of the last run does not need: artefacts of other recipes, and what killed
    builds left; not what a process that runs now is building. ValueError where the run does not say what it was asked
    for."""
    busy = builder(run) is not None
    with Ledger.reading(run) as ledger:
        found = ledger.garbage(_needed(run, ledger))
    return {path: size for path, size in found.items() if not busy or path.parent.name != "work"}


def kept(run: Path) -> str:
    """What `collect` keeps, in words."""
    asked = remembered(run)
    recipe = f", recipe {asked.recipe.name} with {asked.recipe.loops} turns" if asked else ""
    return f"what the last run used is kept ({len(set(current(run)))} artefacts{recipe})"


def collect(run: Path) -> int:
    """Remove all of `garbage`; the bytes that this freed. ValueError while another process builds there."""
    Ledger.reading(run).close()
    with Ledger(run) as ledger:
        ledger.claim()
        freed = ledger.gc(_needed(run, ledger))
    links.without_dangling(run)
    return freed


def _needed(run: Path, ledger: Ledger) -> list[Artefact]:
    used = set(current(run))
    require(len(used) > 0, f"{run}: no record of what the last run used; run it again first")
    return [a for a in ledger.history() if a.id in used]


def megabytes(n: float) -> str:
    """Bytes in, text in decimal units out."""
    for unit in ("B", "kB", "MB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def _bytes(folder: Path) -> int:
    """A file may go while it is counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def _ago(seconds: float) -> str:
    for n, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= n:
            return f"{seconds / n:.0f} {unit}"
    return f"{seconds:.0f} s"
