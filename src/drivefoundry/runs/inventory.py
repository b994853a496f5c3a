"""Contents and state of a run directory, and what in it is no longer needed."""

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
"""Progress of a running run, see `progress.kept`."""
COLUMNS = ("turn", "stage", "size", "seconds", "id", "name")


def listing(run: Path, *, all_of_them: bool = False) -> list[dict[str, Any]]:
    """A row per artefact: turn, stage, bytes, seconds, id, name, path; those that the last run used, in order, or all,
    the oldest first. ValueError if it is not a run."""
    used = current(run)
    every = artefacts(run)
    if used and not all_of_them:
        every = [a for a in every if a.id in used]
    last = {(a.kind, turn): a.id for a in artefacts(run) for turn in (turn_of(a), None)}
    return [_row(run, a, last) for a in every]


def _row(run: Path, a: Artefact, last: dict[tuple[str, int | None], str]) -> dict[str, Any]:
    """last: (kind, turn or None for any) -> the artefact of that name."""
    turn = turn_of(a)
    name = f"{run}:{a.kind}:{turn}" if turn else f"{run}:{a.kind}"
    if last[a.kind, turn] != a.id:
        name = f"{run}:{a.id[:12]}"
    row = {"turn": turn, "stage": a.kind, "bytes": a.bytes, "seconds": round(a.seconds, 1), "id": a.id}
    return {**row, "name": name, "path": a.path, "policy": a.info.get("policy", "")}


def table(rows: list[dict[str, Any]]) -> str:
    """One line per artefact."""
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
    """The process that is building in a run, if any; takes no lock. If the system lists no locks, a process with the id
    in the lock file counts."""
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
    """Whether a process is building in a run (pid), its progress, the artefacts, and the disk: bytes of the run by part
    and bytes free. damaged: paths of artefacts whose bytes have changed, None unless verify."""
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


def status_text(state: dict[str, Any]) -> str:
    """Format `status` in a few lines."""
    doing = f"process {state['pid']} is building" if state["running"] else "nothing is running"
    lines = [f"{state['run']}: {doing}"]
    if now := state["now"]:
        lines.append(f"  at {now['stage']}, for {time.time() - now['since']:.0f} s")
        for one in now["bars"]:
            left = "" if one["left_s"] is None else f", {one['left_s']:.0f} s left"
            lines.append(f"    {one['what']}: {one['done']}/{one['total']}{left}")
    recipe = f"recipe {state['recipe']}, " if state["recipe"] else ""
    ago = "" if state["last_finished"] is None else f", the last {_ago(time.time() - state['last_finished'])} ago"
    lines.append(f"  {recipe}{state['artefacts']} artefacts of {state['turns']} turns{ago}")
    disk = ", ".join(f"{name} {megabytes(n)}" for name, n in state["bytes"].items() if n)
    lines.append(f"  disk: {disk}; {megabytes(state['free_bytes'])} free")
    if (damaged := state["damaged"]) is not None:
        lines += [f"  damaged: {path}; the next run rebuilds it" for path in damaged] or ["  all bytes are intact"]
    return "\n".join(lines)


def garbage(run: Path) -> dict[Path, int]:
    """Directory -> bytes of what the last run's recipe does not need: artefacts of other recipes and remains of killed
    builds, but not what a running process is building. ValueError if the run has no record of its request."""
    busy = builder(run) is not None
    with Ledger.reading(run) as ledger:
        found = ledger.garbage(_needed(run, ledger))
    return {path: size for path, size in found.items() if not busy or path.parent.name != "work"}


def kept(run: Path) -> str:
    """Describe what `collect` keeps."""
    asked = remembered(run)
    recipe = f", recipe {asked.recipe.name} with {asked.recipe.loops} turns" if asked else ""
    return f"keeping what the last run used ({len(set(current(run)))} artefacts{recipe})"


def collect(run: Path) -> int:
    """Delete all of `garbage`; return the bytes freed. ValueError while another process is building there."""
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
    """Format bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def _bytes(folder: Path) -> int:
    """Size of a folder; files may disappear while being counted."""
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
