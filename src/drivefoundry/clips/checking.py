"""Check and prepare uploaded files in processes with bounded memory and time: uploads are not trusted.

A file that makes its checker run out of memory, hang or crash is refused; the next file gets a new checker.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import queue
import resource
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from drivefoundry.clips.objects import ObjectStore
from drivefoundry.clips.prepared import Prepared, check, prepare
from drivefoundry.compute import keep_memory

MEMORY = 2 << 30
"""Memory limit of a check beyond an idle checker's, bytes; the largest clip takes half of it."""
SECONDS, LEAST_S, BYTES_A_SECOND = 30.0, 10.0, 1e6
"""CPU time limit of a check: LEAST_S plus a second per this many bytes, SECONDS at most. The largest clip takes a
second or two; a clip of JPEG pictures, which are re-encoded, a tenth of its limit."""
PATIENCE = 4.0
"""Wall-clock limit of a check, as a multiple of its CPU limit."""
STORE_S = 600.0
"""Extra time for preparing a row, s: its videos go to the object store, perhaps over a network."""
_START_S = 60.0


class Checkers:
    """Run `prepared.check` and `prepared.prepare` in separate processes, one file at a time each; threads may share
    them.

    objects: URL of the object store for the clips' videos; memory, seconds: limits for the largest file.
    """

    def __init__(self, objects: str, count: int = 2, *, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._settings = (objects, memory)
        self._idle: queue.LifoQueue[_Checker] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(_Checker(*self._settings))
        self._count = count

    def check(self, path: Path, sha256: str, vehicle: str) -> None:
        """See `prepared.check`. Also ValueError if the check takes too much memory or time."""
        self._ask(path, sha256, vehicle)

    def prepare(self, path: Path, sha256: str) -> Prepared:
        """See `prepared.prepare`, with the same limits plus STORE_S for the store; OSError beyond that."""
        prepared = self._ask(path, sha256, None)
        assert prepared is not None
        return prepared

    def _ask(self, path: Path, sha256: str, vehicle: str | None) -> Prepared | None:
        checker = self._idle.get()
        try:
            return checker.ask(
                (path, sha256, vehicle), min(self.seconds, LEAST_S + path.stat().st_size / BYTES_A_SECOND)
            )
        finally:
            if not checker.process.is_alive():
                checker.close()
                checker = _Checker(*self._settings)
            self._idle.put(checker)

    def close(self) -> None:
        """Stop the processes, each after its current check."""
        for _ in range(self._count):
            self._idle.get().close()


class _Checker:
    """One process and the pipe to it."""

    def __init__(self, objects: str, memory: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # never fork: lance holds threads
        self._pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(target=_work, args=(theirs, objects, memory), daemon=True)
        self.process.start()
        theirs.close()
        self._started = False

    def ask(self, task: tuple[Path, str, str | None], seconds: float) -> Prepared | None:
        try:
            self._started = self._started or (self._pipe.poll(_START_S) and self._pipe.recv())
        except (EOFError, ConnectionError) as error:
            raise OSError("no checker could be started") from error
        try:
            self._pipe.send(task)
            if task[2] is not None:
                self._wait(seconds)
            elif not self._pipe.poll(seconds + STORE_S):  # the check is done: the store is slow, not the file
                self._kill()
                raise OSError(f"storing a clip takes more than {seconds + STORE_S:g} s")
            told = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # by the machine or its operator, not because of the file
                raise OSError("the checker was killed") from error
            raise ValueError(f"it crashed its checker (exit code {self.process.exitcode}); record it again") from error
        if isinstance(told, Exception):
            raise told
        return told

    def _wait(self, seconds: float) -> None:
        """Wait for the answer. ValueError if the check exceeds its CPU time; OSError if the machine is too busy or its
        disk does not answer, which is not the file's fault."""
        begun, end = self._spent(), time.monotonic() + PATIENCE * seconds
        left = seconds
        while not self._pipe.poll(max(0.05, left)):
            left = seconds - (self._spent() - begun)
            if left <= 0:
                self._kill()
                raise ValueError(f"checking it takes more than {seconds:g} s; cut it into shorter clips")
            if time.monotonic() > end:
                self._kill()
                raise OSError(f"no checker finished a clip within {PATIENCE * seconds:g} s")

    def _spent(self) -> float:
        """CPU seconds of the process so far; 0 once it has exited."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _kill(self) -> None:
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        self._pipe.close()
        self.process.join(SECONDS)
        self._kill()


def _work(pipe: Connection, objects: str, memory: int) -> None:
    """Main loop of a checker, until its parent closes the pipe or exits."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # stopping the service lets its checkers finish
        signal.signal(stop, signal.SIG_IGN)
    keep_memory()  # large clips follow one another
    for late in ("numpy.ma", "av.subtitles.stream"):  # import them now, or the first clip would wait
        importlib.import_module(late)
    store = ObjectStore(objects)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    with contextlib.suppress(EOFError, ConnectionError):
        pipe.send(True)
        while True:
            pipe.send(_answer(store, *pipe.recv()))


def _answer(store: ObjectStore, path: Path, sha256: str, vehicle: str | None) -> Prepared | Exception | None:
    try:
        return prepare(path, store, sha256) if vehicle is None else check(path, sha256, vehicle)
    except (ValueError, OSError) as error:
        error.__cause__ = error.__context__ = None  # only the message crosses the pipe
        return error.with_traceback(None)
