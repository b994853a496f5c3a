"""Uploaded files in, verdicts and rows out, made by processes of bounded memory and time: nothing sent is trusted.

A file that makes its checker grow, hang or die is refused; the next one finds a new checker.
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
"""Bytes that a check may take beyond what an idle checker has: a clip of the largest size takes half of it."""
SECONDS, LEAST_S, BYTES_A_SECOND = 30.0, 10.0, 1e6
"""Processor time that a check may take: LEAST_S and a second for each so many bytes, SECONDS at most. The largest clip
takes a second or two, a clip of JPEG pictures, which are encoded anew, a tenth of what it may."""
PATIENCE = 4.0
"""A check may wait for the processor or the disk so many times longer than it may compute."""
STORE_S = 600.0
"""How much longer making a row may take: its videos go to the object store, over a network perhaps."""
_START_S = 60.0


class Checkers:
    """`prepared.check` and `prepared.prepare` in processes of their own, a file at a time each; threads may share them.

    objects: URL of the object store that keeps the clips' videos; memory, seconds: bounds of the largest file.
    """

    def __init__(self, objects: str, count: int = 2, *, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._settings = (objects, memory)
        self._idle: queue.LifoQueue[_Checker] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(_Checker(*self._settings))
        self._count = count

    def check(self, path: Path, sha256: str, vehicle: str) -> None:
        """See `prepared.check`. ValueError as well where the check takes too much memory or time."""
        self._ask(path, sha256, vehicle)

    def prepare(self, path: Path, sha256: str) -> Prepared:
        """See `prepared.prepare`, with the same bounds and STORE_S for the store; OSError where that is not enough."""
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
        """End the processes, each after the check it is at."""
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
            raise OSError("no checker starts") from error
        try:
            self._pipe.send(task)
            if task[2] is not None:
                self._wait(seconds)
            elif not self._pipe.poll(seconds + STORE_S):  # it has been checked: the store is slow, not the file
                self._kill()
                raise OSError(f"keeping a clip takes more than {seconds + STORE_S:g} s")
            told = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # by the machine or its operator: not the file's doing
                raise OSError("the checker was killed") from error
            raise ValueError(f"its checker died of it (exit code {self.process.exitcode}); record it again") from error
        if isinstance(told, Exception):
            raise told
        return told

    def _wait(self, seconds: float) -> None:
        """Until the answer is there. ValueError where it takes more processor time; OSError where the machine is too
        busy with other things, or its disk does not answer: neither is the file's fault."""
        begun, end = self._spent(), time.monotonic() + PATIENCE * seconds
        left = seconds
        while not self._pipe.poll(max(0.05, left)):
            left = seconds - (self._spent() - begun)
            if left <= 0:
                self._kill()
                raise ValueError(f"checking it takes more than {seconds:g} s; cut it into shorter clips")
            if time.monotonic() > end:
                self._kill()
                raise OSError(f"no checker gets through a clip in {PATIENCE * seconds:g} s")

    def _spent(self) -> float:
        """Processor seconds of the process so far; 0 once it is dead."""
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
    """A checker's life: until its parent closes the pipe, or dies."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # whoever stops the service lets its checkers finish
        signal.signal(stop, signal.SIG_IGN)
    keep_memory()  # one clip of many megabytes is taken apart after the other
    for late in ("numpy.ma", "av.subtitles.stream"):  # else the first clip would wait for them to be imported
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
        error.__cause__ = error.__context__ = None  # the line is all that is told
        return error.with_traceback(None)
