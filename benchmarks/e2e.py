"""The loop, killed twice and restarted: seconds, bytes and scores per stage as one line of JSON.

    python -m benchmarks.e2e [--quick] [--recipe NAME|FILE] [--out DIR]

After each kill (SIGKILL) everything visible must be intact: every artefact as the ledger recorded it, every clip
readable, and its video with the right hash. Finished artefacts must not be built again. Exit code 1 if a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import report
from drivefoundry.clips.store import ClipStore
from drivefoundry.compute import cores
from drivefoundry.ledger import Artefact, Ledger

NOOP_S = 10.0
"""Maximum time of a run that has nothing to do, s."""
QUICK = ("fleet.cars=3", "fleet.seconds=40", "fleet.held_out_seconds=40", "fleet.traffic=20", "fleet.pedestrians=8",
         "fleet.outings=4", "fleet.outing_seconds=8", "judge.scenes=4", "judge.seconds=8")  # fmt: skip
SCORES = {"driving_score_21": "driving_score", "pdms": "pdms", "collision": "collision_share"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.e2e", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same with fewer cars and scenes")
    parser.add_argument("--recipe", default="tiny", help="as of drivefoundry run (default: tiny)")
    parser.add_argument("--out", type=Path, help="run directory, empty or new (default: a temporary one)")
    asked = parser.parse_args()
    if asked.out is not None and asked.out.exists() and any(asked.out.iterdir()):
        parser.error(f"{asked.out}: not empty; give a new directory (--out)")
    extra = [word for setting in QUICK for word in ("--set", setting)] if asked.quick else []
    with tempfile.TemporaryDirectory(prefix="drivefoundry-e2e-") as aside:
        out = asked.out or Path(aside) / "run"
        command = [sys.executable, "-m", "drivefoundry", "run", "--recipe", asked.recipe, "--out", str(out), *extra]
        return measure(command, out)


def measure(command: list[str], out: Path) -> int:
    """Run the command, killed at two moments, to its end and once more; prints the line, returns the exit code."""
    begun = time.monotonic()
    kept: list[Artefact] = []
    damaged = redone = 0
    moments = {"3 artefacts": lambda: recorded(out) >= 3, "pre-training": lambda: at(out, "pretrain")}
    for what, moment in moments.items():
        kill(command, moment, what)
        damaged += half_made(out)
        redone += made_again(kept, out)
        kept = history(out)
        say(f"killed at: {what}; {len(kept)} artefacts kept, {damaged} damaged")
    subprocess.run(command, stdout=sys.stderr, check=True)
    loop_s = time.monotonic() - begun
    damaged += half_made(out)
    redone += made_again(kept, out)
    before = history(out)
    start = time.monotonic()
    subprocess.run(command, stdout=sys.stderr, check=True)
    noop_s = time.monotonic() - start
    idle = history(out) == before
    figures = {"loop_with_two_kills_s": loop_s, "noop_s": noop_s, **per_stage(before), **per_model(before)}
    targets = {
        "noop_s": (noop_s, NOOP_S, noop_s < NOOP_S),
        "made_by_noop_run": (float(not idle), 0.0, idle),
        "damaged_after_kill": (float(damaged), 0.0, damaged == 0),
        "made_again_after_kill": (float(redone), 0.0, redone == 0),
    }
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def kill(command: list[str], moment: Callable[[], bool], what: str) -> None:
    """Run the command until the moment, then kill it with SIGKILL."""
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        while not moment():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)}: ended with {process.returncode} before: {what}")
            time.sleep(0.01)
        process.kill()


def recorded(out: Path) -> int:
    """Number of builds in the ledger of a running process."""
    if not (out / "ledger.db").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{out / 'ledger.db'}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM builds").fetchone()[0]
    except sqlite3.OperationalError:  # the table does not exist yet
        return 0


def at(out: Path, kind: str) -> bool:
    """Whether a build of this kind is in progress and has written something."""
    return any(any(folder.iterdir()) for folder in (out / "work").glob(f"{kind}-*"))


def history(out: Path) -> list[Artefact]:
    with Ledger(out) as ledger:
        return ledger.history()


def half_made(out: Path) -> int:
    """Number of artefacts and clips that are not intact."""
    with Ledger(out) as ledger:
        wrong = len(ledger.damaged())
        wrong += len({a.path for a in ledger.history()} ^ set((out / "artefacts").iterdir()))
    store = ClipStore(out / "clips")
    for clip in store.ids():
        try:
            wrong += store.drive(clip).video is None
        except ValueError as error:
            say(str(error))
            wrong += 1
    return wrong


def made_again(kept: list[Artefact], out: Path) -> int:
    """Number of artefacts that existed at a kill and were built again."""
    now = {a.key: a for a in history(out)}
    return sum(now.get(a.key) != a for a in kept)


def per_stage(done: list[Artefact]) -> dict[str, float]:
    """Seconds, bytes and share of computing time of each kind of artefact over all turns, and of all together."""
    figures: dict[str, float] = {}
    for kind in dict.fromkeys(a.kind for a in done):
        mine = [a for a in done if a.kind == kind]
        figures[f"{kind}_s"] = sum(a.seconds for a in mine)
        figures[f"{kind}_computing_share"] = computing(mine)
        figures[f"{kind}_bytes"] = sum(a.info.get("sent_bytes", a.bytes) for a in mine)
    return {
        "stages_s": sum(a.seconds for a in done), "computing_share": computing(done), "artefacts": len(done), **figures
    }  # fmt: skip


def computing(done: list[Artefact]) -> float:
    """CPU time of these stages, divided by what all cores could have provided in that time."""
    return sum(a.cpu_seconds for a in done) / max(sum(a.seconds for a in done) * cores(), 1e-9)


def per_model(done: list[Artefact]) -> dict[str, float]:
    """Mean scores of every policy in the last verdict."""
    verdict = json.loads(([a for a in done if a.kind == "verdict"][-1].path / "verdict.json").read_text())
    figures = {"judged_scenes": float(len(verdict["scenes"]))}
    for policy, scores in verdict["summary"].items():
        name = re.sub(r"\W+", "_", policy).strip("_").lower()
        figures |= {f"{name}_{said}": scores[metric][0] for metric, said in SCORES.items()}
    return figures


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
