import os
import signal
import threading
import time
from pathlib import Path

import pytest

from drivefoundry_car.update.selftest import Unfinished, self_test


def children() -> list[int]:
    """Process ids of this process's children, from any thread."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """An engine directory whose contract is a pipe that nobody writes to: loading it never returns."""
    os.mkfifo(tmp_path / "engine.json")
    return tmp_path


def test_an_engine_that_does_not_load_is_reported_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.json") as caught:
        self_test(tmp_path)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_engine_that_hangs_has_failed(stuck: Path) -> None:
    before = children()
    with pytest.raises(ValueError, match=r"no answer within 0\.5 s"):
        self_test(stuck, 0.5)
    assert children() == before, "nothing of it is left"


CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL}


@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
def test_a_crash_is_a_verdict_but_a_kill_is_not(stuck: Path, by: signal.Signals) -> None:
    before, ended = set(children()), threading.Event()

    def end() -> None:
        while not ended.is_set():
            for pid in set(children()) - before:
                os.kill(pid, by)
            time.sleep(0.05)

    killer = threading.Thread(target=end)
    killer.start()
    try:
        with pytest.raises(ValueError if by in CRASHES else Unfinished, match=f"signal {int(by)}"):
            self_test(stuck)
    finally:
        ended.set()
        killer.join()
