"""Fuzz every reader of files and texts from outside; prints one line of JSON.

    python -m benchmarks.fuzz SECONDS [--only READER ...] [--seed N] [--sanitize] [--keep FOLDER] [--quick]

Each reader (`benchmarks.readers`) runs in a separate process with bounded memory and CPU time per input, and gets an
equal share of the SECONDS. Inputs are valid ones mutated by structure (`benchmarks.mutations`): headers, trees of JSON,
records of MCAP, steps of a pickle, resealed contracts. A reader may return or raise ValueError; any other exception
("uncaught"), a process that dies ("crashes") and one that does not finish ("timeouts") are findings. Their inputs are
kept in a folder, one per kind, with the output beside them. --sanitize builds both C++ libraries of the car with
AddressSanitizer and UndefinedBehaviorSanitizer in a temporary folder, and fuzzes the readers that use them. The same
seed gives the same inputs. Exit code 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import report

MEMORY = 1 << 30
"""Maximum memory of a reader beyond its process's before the first input, bytes."""
CPU_S, WALL_S = 20, 300
"""Maximum time per input, s: CPU time and wall time."""
BOARD = 1 << 26
"""Size of the file in which a child stores the number and content of its input before reading it, bytes."""
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-O1",
    "-g1",
]


@dataclass
class Found:
    """Result of one reader."""

    inputs: int = 0
    refused: int = 0
    crashes: int = 0
    uncaught: int = 0
    timeouts: int = 0
    peak_mb: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """Kind of finding, in a few words -> count."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="for all readers together (60)")
    parser.add_argument("--only", nargs="+", default=[], help="names of readers")
    parser.add_argument("--seed", type=int, default=0, help="another gives other inputs")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz"), help="folder for the inputs that were not well taken"
    )
    parser.add_argument("--sanitize", action="store_true", help="what runs through C++, built with sanitizers")
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--board", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.board, asked.seed, asked.begin, asked.seconds, bounded=not asked.sanitize)
        return 0
    from benchmarks.readers import NATIVE, READERS

    unknown = sorted(set(asked.only) - READERS.keys())
    if unknown:
        parser.error(f"--only {unknown[0]}: known are {', '.join(READERS)}")
    names = [n for n in asked.only or READERS if not asked.sanitize or n in NATIVE]
    each = 1.0 if asked.quick else asked.seconds / max(1, len(names))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="drivefoundry-fuzz-") as aside:
        environment = sanitized(Path(aside)) if asked.sanitize else dict(os.environ)
        for name in names:
            found = tried(name, each, asked.seed, Path(aside) / name, asked.keep, environment, asked.sanitize)
            figures |= {f"{name}_{k}": v for k, v in vars(found).items() if k != "kinds"}
            print(f"{name}: {found.inputs} inputs, {found.refused} refused", *said(found), sep="\n  ", file=sys.stderr)
    wrong = sum(v for k, v in figures.items() if k.endswith(("_crashes", "_uncaught", "_timeouts")))
    print(report(figures, {"findings": (wrong, 0.0, wrong == 0)}), flush=True)
    return 0 if wrong == 0 else 1


def said(found: Found) -> list[str]:
    return [f"{n} x {what}" for what, n in found.kinds.most_common()]


def tried(
    name: str, seconds: float, seed: int, folder: Path, keep: Path, environment: Mapping[str, str], sanitize: bool
) -> Found:
    """Spend one reader's share of the time on child processes, each starting after the input that ended the last."""
    found, begin, left = Found(), 0, seconds
    folder.mkdir()
    board = folder / "board"
    while left > 0:
        board.write_bytes(b"")
        os.truncate(board, BOARD)
        command = [sys.executable, "-m", "benchmarks.fuzz", str(left), "--child", name, "--board", str(board)]
        command += ["--seed", str(seed), "--begin", str(begin), *["--sanitize"] * sanitize]
        with (folder / "said").open("w") as words, (folder / "events").open("w") as events:
            process = subprocess.Popen(command, stdout=events, stderr=words, env=dict(environment))
            late = not watched(process, board)
        number, spent, data = posted(board)
        for line in (folder / "events").read_text().splitlines(keepends=True):
            event = json.loads(line) if line.endswith("\n") else {"refused": 0, "peak_mb": 0.0}  # it died over the last
            if "kind" in event:
                found.uncaught += 1
                keep_one(found, keep, name, event["kind"], bytes.fromhex(event["data"]), event["trace"])
            else:
                found.refused += event["refused"]
                found.peak_mb = max(found.peak_mb, event["peak_mb"])
        found.inputs += number - begin
        if process.returncode == 0:
            break
        words = (folder / "said").read_text(errors="replace")
        assert number > begin, f"{name}: no input was tried: {words[-2000:]}"
        slow = late or process.returncode == -signal.SIGXCPU or process.returncode == -signal.SIGPROF
        found.timeouts, found.crashes = found.timeouts + slow, found.crashes + (not slow)
        why = "takes too long" if slow else died(process.returncode, words)
        keep_one(found, keep, name, why, data, words)
        left, begin = left - max(spent, 0.1), number
    return found


def died(code: int, words: str) -> str:
    """How a process ended, in a few words."""
    lines = [line.strip() for line in words.splitlines() if "SUMMARY" in line or "runtime error" in line]
    return lines[0][:160] if lines else f"died of signal {-code}" if code < 0 else f"ended with {code}"


def watched(process: subprocess.Popen[bytes], board: Path) -> bool:
    """Wait for a child; kill it and return False if one input exceeds its wall time."""
    last, since = -1, time.monotonic()
    while True:
        try:
            process.wait(1.0)
            return True
        except subprocess.TimeoutExpired:
            number = posted(board)[0]
            if number != last:
                last, since = number, time.monotonic()
            elif time.monotonic() - since > WALL_S:
                process.kill()
                return False


def keep_one(found: Found, keep: Path, name: str, kind: str, data: bytes, words: str) -> None:
    """Keep the first input of each kind of finding, with the output."""
    found.kinds[kind] += 1
    if found.kinds[kind] == 1:
        keep.mkdir(parents=True, exist_ok=True)
        stem = f"{name}-{len(found.kinds)}"
        while (keep / f"{stem}.input").exists():
            stem += "x"
        (keep / f"{stem}.input").write_bytes(data)
        (keep / f"{stem}.txt").write_text(f"{kind}\n\n{words[-8000:]}")


def posted(board: Path) -> tuple[int, float, bytes]:
    """Number of inputs begun, seconds since the first, and the last input."""
    with board.open("rb") as held:
        head = held.read(24)
        number, spent, size = (int.from_bytes(head[i : i + 8], "little") for i in (0, 8, 16))
        return number, spent / 1000, held.read(min(size, BOARD - 24))


def child(name: str, board: Path, seed: int, begin: int, seconds: float, bounded: bool) -> None:
    """Read inputs from number `begin` on until the time is up; prints findings as lines of JSON."""
    from benchmarks.readers import opened

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reader = opened(name, board.parent / "work")
    if not bounded:
        import drivefoundry_car

        assert "drivefoundry-fuzz-" in drivefoundry_car.__path__[0], "not the libraries that were built for this"
    for seed_input in reader.seeds:
        reader.read(seed_input)  # valid ones are accepted; imports that they cause happen here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if bounded:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with board.open("r+b") as held:
        place = mmap.mmap(held.fileno(), BOARD)
    number, refused, since, counted = begin, 0, time.monotonic(), Counter[str]()
    while time.monotonic() - since < seconds:
        dice = random.Random(f"{seed}/{name}/{number}")
        data = reader.spoil(dice, dice.choice(reader.seeds))
        number += 1
        spent = int(1000 * (time.monotonic() - since))
        for i, value in enumerate((number, spent, len(data))):
            place[8 * i : 8 * i + 8] = value.to_bytes(8, "little")
        place[24 : 24 + len(data)] = data[: BOARD - 24]
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # the signal ends the process, even in C++
        try:
            reader.read(data)
        except ValueError:
            refused += 1
        except Exception as error:  # the purpose of the search
            counted[kind := kind_of(error)] += 1
            event = {"kind": kind} if counted[kind] < 1000 else None
            if event:
                whole = data.hex() if counted[kind] == 1 else ""
                trace = traceback.format_exc()[-8000:] if counted[kind] == 1 else ""
                print(json.dumps(event | {"data": whole, "trace": trace}), file=answers, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if number % 64 == 0:
            tell(answers, before, refused)
            refused = 0
    tell(answers, before, refused)


def tell(answers, before: int, refused: int) -> None:
    """Report progress so far, in case the child dies later."""
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"refused": refused, "peak_mb": round(peak, 1)}), file=answers, flush=True)


def kind_of(error: Exception) -> str:
    """An exception's class and the innermost place in our code that it passed through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "drivefoundry" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "elsewhere"
    return (
        f"{type(error).__name__} in {where}: {str(error)[:80]!r}"
        if not frames
        else f"{type(error).__name__} in {where}"
    )


def sanitized(folder: Path) -> dict[str, str]:
    """Build both C++ libraries with sanitizers in a copy of the car's package; returns the environment in which it
    is found first, together with the sanitizers' runtime."""
    import drivefoundry_car

    here = Path(drivefoundry_car.__path__[0])
    package = folder / "car" / "drivefoundry_car"
    shutil.copytree(here, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    from drivefoundry_car.triggers.watch.library import SOURCES

    for part, sources in (("engine", ("kernels.cpp", "forward.h")), ("triggers/watch", SOURCES)):
        place = package / part
        digest = hashlib.sha256(b"".join((place / name).read_bytes() for name in sources)).hexdigest()
        flags = ["-std=c++17", "-ffp-contract=off", "-pthread", "-Wno-psabi", "-shared", "-fPIC", *SANITIZERS]
        define = f'-D{place.name.upper()}_SOURCE="{digest}"'
        subprocess.run(["g++", *flags, define, str(place / sources[0]), "-o", str(place / "_kernels.so")], check=True)
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")  # the sanitizer's own intercepts C++ exceptions
    ]
    return dict(os.environ) | {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": os.pathsep.join([str(folder / "car"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
    }


if __name__ == "__main__":
    sys.exit(main())
