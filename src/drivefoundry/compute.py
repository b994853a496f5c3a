"""Parallel map with results in order: over this machine's processes, its threads, or a Ray cluster."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

_KEPT = 1 << 28
_HIDDEN = threading.Lock()
A = TypeVar("A")
B = TypeVar("B")
Backend = Literal["processes", "threads", "ray", "serial"]
BACKENDS: tuple[str, ...] = ("processes", "threads", "ray", "serial")

ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
}
"""Environment of workers: several processes with thread pools would compete for the same cores."""


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let the C library keep up to a quarter of a gigabyte that this process frees: work that repeatedly allocates and
    frees many megabytes otherwise spends up to half of its time on page faults for the same pages."""
    trim_threshold, mmap_threshold = -1, -3  # glibc's names for them
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, _KEPT)
        library.mallopt(mmap_threshold, _KEPT)


def pmap(
    fn: Callable[[A], B],
    items: Sequence[A],
    backend: Backend = "processes",
    workers: int | None = None,
    on_done: Callable[[int, B], None] | None = None,
) -> list[B]:
    """[fn(item) for item in items], computed by several workers at once.

    processes: freshly spawned processes with one compute thread each; items must pickle, fn must be a module-level
    function. They import the main module only if fn or an item comes from it; if it cannot be imported (a notebook, a
    script on standard input), the work is done in this process, one by one.
    threads: for work that releases the GIL. ray: tasks on the cluster of RAY_ADDRESS, or a local one. serial: in this
    process, one by one. workers: defaults to one per core.
    on_done(index, result) is called in this process as each item is done.
    The first error stops the rest and is raised: a ValueError's line then begins with the item's name, other errors
    carry it as a note. RuntimeError if a worker was killed, or cannot start because the main module has no `__main__`
    guard.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: must be one of {', '.join(BACKENDS)}")
    items = list(items)
    count = max(1, min(workers or cores(), len(items)))
    if not items:
        return []
    spawn, began = None, None
    if backend == "processes":
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            os._exit(1)  # a worker still importing an unguarded main module; its parent reports what is wrong
        with_main = _needs_main((fn, items))
        if with_main and not _main_can_be_imported():
            backend = "serial"
        # Never fork: numba, torch, lance and SUMO hold threads and locks.
        spawn = multiprocessing.get_context("spawn") if with_main else _SpawnWithoutMain()
        began = spawn.Event()
    finished: Generator[tuple[int, Callable[[], B]], None, None]
    if backend == "ray":
        finished = _on_ray(fn, items, workers)
    elif backend == "serial":
        finished = ((i, lambda item=item: fn(item)) for i, item in enumerate(items))
    else:
        executor = _processes(spawn, began, count) if spawn and began else ThreadPoolExecutor(count)
        finished = _on_executor(fn, items, executor)
    results: dict[int, B] = {}
    with closing(finished):  # ends the workers here, not wherever the garbage collector finds them after an error
        for i, result in finished:
            try:
                results[i] = result()
            except BrokenProcessPool as error:
                waiting = [_name(item, k) for k, item in enumerate(items) if k not in results]
                raise RuntimeError(_why_broken(began, waiting)) from error
            except Exception as error:
                raise _naming(error, _name(items[i], i))  # noqa: B904 - it is the same error, or has it as its cause
            if on_done is not None:
                on_done(i, results[i])
    return [results[i] for i in range(len(items))]


def _naming(error: Exception, name: str) -> Exception:
    """Add the item's name to an error: at the start of a ValueError's line, otherwise as a note."""
    if not isinstance(error, ValueError):
        error.add_note(f"while working on {name}")
        return error
    if str(error).startswith(name):
        return error
    named = ValueError(f"{name}: {error}")
    named.__cause__ = error
    return named


def _why_broken(began: Event | None, waiting: list[str]) -> str:
    """Explain what happened to the workers, the first of which sets `began`; waiting: items without a result."""
    if began is not None and not began.is_set():
        return (
            f"worker processes cannot start: they import {_main_file()} first, and that starts workers itself or "
            "fails; put its calls under if __name__ == '__main__':, or pass backend='threads' or 'serial'"
        )
    return f"a worker process was killed (out of memory?) on one of: {', '.join(waiting)[:200]}"


def _on_executor(
    fn: Callable[[A], B], items: list[A], executor: AbstractContextManager[Executor]
) -> Generator[tuple[int, Callable[[], B]], None, None]:
    with executor as started:
        order: dict[Future[B], int] = {}
        for i, item in enumerate(items):
            try:
                future = started.submit(fn, item)
            except BrokenProcessPool as error:  # the first workers died before this loop finished
                future = Future()
                future.set_exception(error)
            order[future] = i
        try:
            for future in as_completed(order):
                yield order[future], future.result
        finally:
            started.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _processes(spawn: SpawnContext, began: Event, workers: int) -> Iterator[Executor]:
    """Spawned workers with one compute thread each; `began` is set when the first of them runs."""
    kept = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # children read it before they import numpy
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(began,)) as executor:
            yield executor
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _ProcessWithoutMain(SpawnProcess):
    """Does not import the parent's main module, which may be a script without a guard, or no file at all."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _HIDDEN:
            main = sys.modules["__main__"]
            empty = ModuleType("__main__")
            empty.__spec__ = None
            sys.modules["__main__"] = empty
            try:
                return SpawnProcess._Popen(process_obj)  # pyright: ignore[reportAttributeAccessIssue]
            finally:
                sys.modules["__main__"] = main


class _SpawnWithoutMain(SpawnContext):
    Process = _ProcessWithoutMain  # pyright: ignore[reportAssignmentType]


class _Search:
    """A file object that only detects whether a pickle names the main module."""

    found = False

    def write(self, data: Any) -> int:
        self.found |= b"__main__" in bytes(data)
        return len(data)


def _needs_main(task: Any) -> bool:
    """Whether a task contains a function, or an instance of a class, of the main module. What does not pickle is
    refused later."""
    search = _Search()
    try:
        pickle.Pickler(search).dump(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return True
    return search.found


def _main_file() -> str:
    return str(getattr(sys.modules["__main__"], "__file__", None) or "the main module")


def _main_can_be_imported() -> bool:
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is not None or Path(_main_file()).is_file()


def _begin(began: Event) -> None:
    """First action of a worker. Without the watch, a worker whose parent was killed would wait forever, or write where
    the next run works."""
    began.set()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(
    fn: Callable[[A], B], items: list[A], workers: int | None
) -> Generator[tuple[int, Callable[[], B]], None, None]:
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # errors after the first one would be printed at length
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("backend 'ray': Ray is not installed; pip install 'drivefoundry[ray]'") from None
    if not ray.is_initialized():
        environment, local = dict(ONE_THREAD), {}
        if "RAY_ADDRESS" not in os.environ:
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, sys.path)
            )  # workers there can import what this process can
            local = {"num_cpus": workers or cores(), "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment}, **local)
    task, shared = ray.remote(_call), ray.put(fn)
    order = {task.remote(shared, item): i for i, item in enumerate(items)}
    waiting = list(order)
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            yield order[ready[0]], lambda ref=ready[0]: _ray_result(ref)
    finally:
        for ref in waiting:
            ray.cancel(ref)


def _call(fn: Callable[[A], B], item: A) -> B:
    """Wrap any callable in a plain function, which Ray requires for tasks."""
    return fn(item)


def _ray_result(ref: Any) -> Any:
    """Unwrap what a task raised, so that the caller gets the same error as from the other backends."""
    import ray  # pyright: ignore[reportMissingImports]

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from error


def _name(item: Any, index: int) -> str:
    """Name of an item in error messages."""
    if isinstance(item, (str, Path)):
        return str(item)
    for attribute in ("name", "id"):
        value = getattr(item, attribute, None)
        if isinstance(value, (str, Path)):
            return str(value)
    if isinstance(item, tuple) and item and isinstance(item[0], (str, Path)):
        return str(item[0])
    return f"item {index}"
