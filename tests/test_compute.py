"""Parallel map: the same results in the same order from every backend."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from drivefoundry.compute import ONE_THREAD, pmap


@dataclass(frozen=True)
class Job:
    name: str
    number: int


def square(job):
    return job.number**2, os.getpid(), threading.get_ident()


def refuse_seven(job):
    if job.number == 7:
        raise ValueError("wheel missing")
    return job.number


def divide(number):
    return 1 / number


def environment(_):
    return {name: os.environ.get(name) for name in ONE_THREAD}


def die(number):
    if number == 2:
        os._exit(9)
    return number


JOBS = [Job(f"car-{i}", i) for i in range(9)]


@pytest.fixture(params=["processes", "threads", "serial", "ray"])
def backend(request):
    if request.param == "ray":
        pytest.importorskip("ray")
    return request.param


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::ResourceWarning")


def test_order_is_kept(backend):
    seen = {}
    results = pmap(square, JOBS, backend, 2, on_done=lambda i, r: seen.update({i: r[0]}))
    assert [r[0] for r in results] == [j.number**2 for j in JOBS]
    assert seen == {j.number: j.number**2 for j in JOBS}
    elsewhere = {r[1] for r in results} - {os.getpid()}
    assert bool(elsewhere) == (backend in ("processes", "ray"))
    assert pmap(square, [], backend) == []


def test_arrays_cross_unchanged(backend):
    arrays = [np.arange(n, dtype=np.float32) for n in range(5)]
    for got, sent in zip(pmap(np.negative, arrays, backend, 2), arrays, strict=True):
        np.testing.assert_array_equal(got, -sent)


def test_user_error_names_the_item(backend):
    with pytest.raises(ValueError, match=r"^car-7: wheel missing$"):
        pmap(refuse_seven, JOBS, backend, 2)


def test_other_error_keeps_its_type_and_names_the_item(backend):
    with pytest.raises(ZeroDivisionError) as caught:
        pmap(divide, [2, 0, 1], backend, 2)
    assert "while working on item 1" in caught.value.__notes__


def test_workers_have_one_thread_each_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert pmap(environment, [1, 2], "processes", 2) == [ONE_THREAD, ONE_THREAD]
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_killed_worker_is_reported():
    with pytest.raises(RuntimeError, match="killed"):
        pmap(die, [1, 2], "processes", 1)


def test_unknown_backend():
    with pytest.raises(ValueError, match="one of processes, threads, ray, serial"):
        pmap(square, JOBS, "spark")  # pyright: ignore[reportArgumentType]


def test_missing_ray_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'drivefoundry\[ray\]'"):
        pmap(square, JOBS, "ray")


ORPHANS = textwrap.dedent(
    r"""
    import sys, time, os
    from drivefoundry.compute import pmap

    def work(i):
        os.write(1, f"{os.getpid()}\n".encode())  # in one piece: the other worker writes too
        time.sleep(60)

    if __name__ == "__main__":
        pmap(work, [1, 2], "processes", 2)
    """
)


def test_workers_die_with_their_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        assert all(os.path.exists(f"/proc/{pid}") for pid in workers)
        process.kill()
        process.stdout.read()  # ends when the last worker has closed its end of the pipe


UNGUARDED = "from drivefoundry.compute import pmap\nprint(sum(pmap(abs, [-1, -2, -3], workers=2)))\n"
OWN = """
import os
from drivefoundry.compute import pmap
def elsewhere(pid):
    return os.getpid() != pid
print(pmap(elsewhere, [os.getpid()] * 3, workers=2))
"""
GUARDED = OWN.replace("print", "if __name__ == '__main__':\n    print")


def run(*command, stdin=""):
    return subprocess.run([sys.executable, *command], input=stdin, capture_output=True, text=True, timeout=120)


def test_a_script_needs_no_guard_for_functions_of_a_library(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    ran = run(tmp_path / "script.py")
    assert (ran.stdout, ran.stderr) == ("6\n", "")


def test_standard_input_works_as_a_script_does():
    """As in a notebook, workers cannot import it: its own functions run in this process, those of libraries in
    workers."""
    for program, result in ((UNGUARDED, "6\n"), (OWN, "[False, False, False]\n")):
        ran = run("-", stdin=program)
        assert (ran.stdout, ran.stderr) == (result, "")


def test_functions_of_a_guarded_script_run_elsewhere(tmp_path):
    (tmp_path / "script.py").write_text(GUARDED)
    assert run(tmp_path / "script.py").stdout == "[True, True, True]\n"


def test_a_script_without_a_guard_gets_an_explanation(tmp_path):
    (tmp_path / "script.py").write_text(OWN)
    ran = run(tmp_path / "script.py")
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith(f"RuntimeError: worker processes cannot start: they import {tmp_path / 'script.py'} first")
    assert "under if __name__ == '__main__':" in last
    assert "memory" not in ran.stderr
    assert "bootstrapping" not in ran.stderr


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_workers_have_ended_when_an_error_is_raised(kind):
    before = {*threading.enumerate()}
    with pytest.raises(ValueError, match="wheel missing") as error:
        pmap(refuse_seven, [Job(f"car-{n}", n) for n in (7, *range(20, 28))], backend=kind, workers=2)
    assert error.traceback  # it holds every frame that it came through
    assert not multiprocessing.active_children()
    assert {*threading.enumerate()} <= before
