"""One thread beside the caller's that does one job after another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """A daemon thread: unlike a `ThreadPoolExecutor`'s, a job that never ends keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple] | None] = queue.SimpleQueue()
        self._name, self._closed = name, False
        self._thread = self._started()

    def submit(self, job: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do a job when those before it are done; its result, or its error, in the Future. A thread that has died is
        replaced."""
        if not (self._closed or self._thread.is_alive()):
            self._thread = self._started()
        future: Future[Any] = Future()
        self._jobs.put((future, job, args))
        return future

    def close(self) -> None:
        """Let the thread end after what it is doing; what waits is not begun."""
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
                except KeyboardInterrupt as error:  # nobody's Ctrl-C: that goes to the main thread
                    future.set_exception(error)
            del waiting, future, job, args  # keep no arrays alive while idle


def settle(future: Future[Any], job: Callable[..., Any], *args: Any) -> Future[Any]:
    """Do a job now; its result, or its error, in the Future, for whoever looks there."""
    try:
        future.set_result(job(*args))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not swallowed: handed to whoever waits, as concurrent.futures does
        future.set_exception(error)
    return future
