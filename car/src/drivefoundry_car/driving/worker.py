"""A background thread that runs one job at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """A daemon thread: unlike with a `ThreadPoolExecutor`, a job that never ends does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple] | None] = queue.SimpleQueue()
        self._name, self._closed = name, False
        self._thread = self._started()

    def submit(self, job: Callable[..., Any], *args: Any) -> Future[Any]:
        """Queue a job; the Future receives its result or error. A thread that has died is replaced."""
        if not (self._closed or self._thread.is_alive()):
            self._thread = self._started()
        future: Future[Any] = Future()
        self._jobs.put((future, job, args))
        return future

    def close(self) -> None:
        """Let the thread end after its current job; queued jobs are not started."""
        self._closed = True
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if waiting is not None:
                waiting[0].cancel()
        self._jobs.put(None)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while (waiting := self._jobs.get()) is not None:
            future, job, args = waiting
            if future.set_running_or_notify_cancel():
                try:
                    settle(future, job, *args)
                except KeyboardInterrupt as error:  # not a user's Ctrl-C, which goes to the main thread
                    future.set_exception(error)
            del waiting, future, job, args  # do not keep arrays alive while idle


def settle(future: Future[Any], job: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run a job now; the Future receives its result or error."""
    try:
        future.set_result(job(*args))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not swallowed: handed to whoever waits, as concurrent.futures does
        future.set_exception(error)
    return future
