import json
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drivefoundry.release import roll_back, stage
from drivefoundry_car.update.client import in_rollout
from shipping import Line, refused, running


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_updates_alternate_between_slots(line: Line) -> None:
    car = line.car()
    assert car.update() is None  # nothing is published yet
    for name, slot in (("one", "a"), ("two", "b"), ("three", "a")):
        made = line.publish(name)
        now = car.update()
        assert now is not None
        assert (now.slot, now.release, now.name, now.passed) == (slot, made.id, name, True)
        assert running(car) == name
    assert car.update() == now
    assert not (car.slots.folder / "next").exists()


def test_car_rollback_and_refusal(line: Line) -> None:
    car = line.car()
    with pytest.raises(ValueError, match="nothing to roll back"):
        car.slots.rollback()
    line.publish("one")
    car.update()
    with pytest.raises(ValueError, match="slot b"):
        car.slots.rollback()  # the other slot is empty
    assert running(car) == "one"
    line.publish("two")
    car.update()
    assert car.slots.rollback().name == "one"
    refused(car, "was refused by this car: rolled back")
    line.publish("three")
    car.update()
    assert running(car) == "three"


def test_fleet_rollback_needs_no_download(line: Line) -> None:
    one = line.publish("one")
    car = line.car()
    car.update()
    line.publish("two")
    car.update()
    roll_back(line.repo, line.keys, one.id)
    for file in (line.repo / "targets" / "releases").rglob("*.bin"):
        file.unlink()
    car.update()
    assert running(car) == "one"


def test_failed_self_test_keeps_the_running_release(line: Line) -> None:
    car = line.car()
    line.publish("one")
    car.update()
    line.publish("lemon")
    refused(car, "fails its self-test: .*a lemon")
    refused(car, "was refused by this car: .*a lemon")
    line.publish("two")
    car.update()
    assert running(car) == "two"


def test_an_engine_that_kills_the_process_is_tried_three_times(line: Line) -> None:
    car = line.car()
    line.publish("one")
    car.update()
    line.publish("crash")
    for _ in range(3):
        with pytest.raises(SystemExit):
            line.car().update()
        assert running(car) == "one"
    refused(line.car(), "its self-test was cut off 3 times in a row")


def test_boot_rolls_back_automatically(line: Line) -> None:
    car = line.car()
    with pytest.raises(ValueError, match="no release is installed"):
        car.slots.boot()
    line.publish("one")
    car.update()
    line.publish("two")
    car.update()
    assert car.slots.boot().name == "two"
    (car.slots.folder / "current" / "engine" / "weights.bin").write_bytes(b"worn-out flash")
    assert car.slots.boot().name == "one"
    assert running(car) == "one"
    car.update()  # the damage was the slot's, not the release's: it is fetched again
    assert running(car) == "two"
    for slot in "ab":
        (car.slots.folder / slot / "release.json").unlink()
    with pytest.raises(ValueError, match=r"slot b must not run .*nor may slot a"):
        car.slots.boot()
    car.update()
    assert running(car) == "two"


def flip(path: Path, at: int = -20) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))


def newest(line: Line, role: str) -> Path:
    return max((line.repo / "metadata").glob(f"*.{role}.json"), key=lambda p: int(p.name.split(".")[0]))


def flip_signature(line: Line) -> None:
    path = line.repo / "metadata" / "timestamp.json"
    doc = json.loads(path.read_text())
    sig = doc["signatures"][0]["sig"]
    doc["signatures"][0]["sig"] = sig[:-1] + ("0" if sig[-1] != "0" else "1")
    path.write_text(json.dumps(doc))


def raise_version(line: Line) -> None:
    path = line.repo / "metadata" / "timestamp.json"
    doc = json.loads(path.read_text())
    doc["signed"]["version"] += 1
    path.write_text(json.dumps(doc))


def weights(line: Line, name: str = "two") -> Path:
    return next(p for p in (line.repo / "targets").rglob("*.weights.bin") if p.read_bytes().startswith(name.encode()))


def truncate(line: Line) -> None:
    weights(line).write_bytes(weights(line).read_bytes()[:1000])


def foreign(line: Line) -> None:
    """Somebody else's complete and correctly signed repository in place of ours."""
    other = Line(line.folder / "other")
    for _ in range(5):
        other.publish("two")
    shutil.rmtree(line.repo / "metadata")
    shutil.copytree(other.repo / "metadata", line.repo / "metadata")


ATTACKS: dict[str, tuple[Callable[[Line], object], str]] = {
    "byte of a target": (lambda line: flip(weights(line)), "wrong hash or length"),
    "truncated target": (truncate, "wrong hash or length"),
    "longer target": (
        lambda line: weights(line).write_bytes(weights(line).read_bytes() + b"x"),
        "wrong hash or length",
    ),
    "missing target": (lambda line: weights(line).unlink(), "download failed"),
    "byte of targets metadata": (lambda line: flip(newest(line, "targets")), "wrong hash or length"),
    "byte of snapshot metadata": (lambda line: flip(newest(line, "snapshot")), "wrong hash or length"),
    "missing snapshot": (lambda line: newest(line, "snapshot").unlink(), "download failed"),
    "timestamp changed": (raise_version, "signature refused"),
    "signature changed": (flip_signature, "signature refused"),
    "timestamp is no JSON": (lambda line: (line.repo / "metadata/timestamp.json").write_text("{"), "damaged metadata"),
    "foreign keys": (foreign, "signature refused"),
    "no repository": (lambda line: shutil.rmtree(line.repo / "metadata"), "no release repository"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(line: Line, attack: str) -> None:
    car = line.car()
    line.publish("one")
    car.update()
    line.publish("two")
    tamper, match = ATTACKS[attack]
    whole = shutil.copytree(line.repo, line.folder / "whole")
    tamper(line)
    refused(car, match)
    shutil.rmtree(line.repo)
    whole.rename(line.repo)
    car.update()  # the attack left nothing behind that blocks an honest update
    assert running(car) == "two"


def test_foreign_root_is_refused(line: Line) -> None:
    line.publish("one")
    refused(line.car(root=Line(line.folder / "other").root), "signature refused")
    refused(line.car(root=b"{}"), "damaged metadata")


def test_old_copy_is_refused(line: Line) -> None:
    car = line.car()
    line.publish("one")
    old = shutil.copytree(line.repo, line.folder / "old")
    car.update()
    line.publish("two")
    car.update()
    refused(line.car(old), "older than what this car has seen")
    assert running(car) == "two"


def test_expired_metadata_is_refused(line: Line) -> None:
    car = line.car()
    line.publish("one")
    car.update()
    line.publish("two", now=datetime.now(UTC) - timedelta(days=8))
    refused(car, "timestamp.json is expired; renew")


def test_full_disk_leaves_the_running_release(line: Line) -> None:
    car = line.car()
    line.publish("one")
    car.update()
    line.publish("two")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # files may grow to 100 kB, the weights are 150
        refused(car, "cannot write .*free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not car.slots.next.exists()
    car.update()
    assert running(car) == "two"


def test_one_updater_at_a_time(line: Line) -> None:
    line.publish("one")
    car = line.car()
    with car.slots.fetching(0):
        refused(line.car(), "another update is running")


def test_slots_can_be_copied_with_their_links_only(line: Line) -> None:
    line.publish("one")
    car = line.car()
    car.update()
    line.publish("two")
    for links in (True, False):
        shutil.copytree(line.folder / "car", line.folder / f"car{links}", symlinks=links)
    copy = line.car(vehicle="True")
    copy.update()
    assert (running(copy), running(car)) == ("two", "one")
    with pytest.raises(ValueError, match="copy the slots with their links"):
        line.car(vehicle="False").update()


def test_cohorts_and_staged_rollout(line: Line) -> None:
    one = line.publish("one")
    taxi = line.publish("taxi", cohort="taxis")
    two = line.publish("two", percent=50)
    cars = [line.car(vehicle=f"car-{i}") for i in range(6)]
    for car in cars:
        now = car.update()
        assert now is not None
        assert now.release == (two.id if in_rollout(two.id, car.vehicle, 50) else one.id)
    stage(line.repo, line.keys, "all", 100)
    assert {running(car) for car in cars if car.update()} == {"two"}
    now = line.car(vehicle="t", cohort="taxis").update()
    assert now is not None
    assert now.release == taxi.id


class Cut(SimpleHTTPRequestHandler):
    """Serves a directory; weights break off in the middle while `cut` is set. Counts requests."""

    cut = False
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if not (self.cut and self.path.endswith("weights.bin")):
            return super().do_GET()
        raw = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2])
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, type[Cut]]]:
    handler = type("Handler", (Cut,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


def test_broken_download_resumes_where_it_broke(line: Line) -> None:
    line.publish("one")
    with served(line.repo) as (url, handler):
        car = line.car(url)
        car.update()
        line.publish("two")
        handler.cut = True
        refused(car, "download failed")
        handler.cut = False
        handler.asked.clear()
        car.update()
        assert running(car) == "two"
        assert not [p for p in handler.asked if p.endswith("io.json")]  # it had come whole before the break
        assert [p for p in handler.asked if p.endswith("weights.bin")]
    refused(car, "download failed")  # nobody listens any more
