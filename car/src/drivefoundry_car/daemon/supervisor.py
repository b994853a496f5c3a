"""Processes beside the daemon's: started, watched, and restarted with back-off when they end."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)
BACKOFF_S, LONGEST_S = 1.0, 60.0
"""Delay before the first restart, doubled each time, and its maximum, s."""
STEADY_S = 60.0
"""A process that has lived this long starts with the shortest delay again, s."""
LEAVE_S = 5.0
"""Time that a process gets to end before it is killed, s."""


class Child:
    """A Python module in a separate process. It stops at the end of its stdin, which also comes when this process
    dies."""

    def __init__(
        self, name: str, module: str, args: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self._clock = name, clock
        self._command = [sys.executable, "-P", "-m", module, *args]
        self.restarts = 0
        self.ended: int | None = None
        """Exit status of the last process that ended, negative for a signal."""
        self._process: subprocess.Popen[bytes] | None = None
        self._wait, self._begun, self._due = BACKOFF_S, 0.0, 0.0

    def watch(self) -> None:
        """Start the process if none runs and it is due; never waits."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._gone(self._process)
        if self._clock() >= self._due:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            self._begun = self._clock()

    def _gone(self, process: subprocess.Popen[bytes]) -> None:
        now = self._clock()
        if process.stdin is not None:
            process.stdin.close()
        self._process, self.ended = None, process.returncode
        self.restarts += 1
        self._wait = BACKOFF_S if now - self._begun >= STEADY_S else self._wait
        self._due = now + self._wait
        log.warning("%s ended with status %s; again in %.0f s", self.name, process.returncode, self._wait)
        self._wait = min(2 * self._wait, LONGEST_S)

    def close(self, seconds: float = LEAVE_S) -> None:
        """Ask the process to end, and kill it if it has not ended within `seconds`."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def health(self) -> dict[str, Any]:
        """Fields for the status report."""
        pid = self._process.pid if self._process is not None else None
        return {"pid": pid, "restarts": self.restarts, "last_status": self.ended}


def until_parent_ends(attempt: Callable[[threading.Event], str], every_s: float) -> None:
    """In a child: repeat an attempt every `every_s` seconds until the parent ends. Each result is logged once, until it
    changes; the event that the attempt receives is set at the end."""
    gone, reported = _parent_gone(), ""
    while not gone.is_set():
        outcome = attempt(gone)
        if outcome and outcome != reported:
            log.warning("%s", outcome)
        reported = outcome
        gone.wait(every_s)


def _parent_gone() -> threading.Event:
    """An event that is set when the parent asks to end, or has died."""
    gone = threading.Event()

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            pass
        gone.set()

    threading.Thread(target=wait, name="parent", daemon=True).start()
    return gone
