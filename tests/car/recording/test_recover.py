"""Recordings that were killed, truncated or met a full disk: what reached the disk is recovered."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from drivefoundry_car import log
from drivefoundry_car.recording import stream
from drivefoundry_car.recording.recovery import recover

CAR = """
import sys, time
import numpy as np
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.recording.recorder import Recorder
from drivefoundry_car.log.video import Encoder
recording = Recorder(sys.argv[1], {"front": Camera(96, 48, (60, 60, 48, 24), (1, 0, 1.5, 0))}, {"drive": "killed"})
encoder, rng = Encoder(96, 48, 10), np.random.default_rng(0)
packets = [encoder.encode(rng.integers(0, 255, (48, 96, 3), np.uint8)) for _ in range(10)]
recording.trigger("c", 1.0, after_s=1e6)
for i in range(10**9):
    key, packet = packets[i % 10]
    recording.push("front", i * 0.1, packet, key)
    recording.push_ego(i * 0.1, np.full(7, i * 0.1))
    if i % 20 == 0:
        time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The `.part` file of a recording process that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    car = subprocess.Popen([sys.executable, "-c", CAR, str(folder)])
    until = time.monotonic() + 60
    while car.poll() is None and time.monotonic() < until:
        parts = list(folder.glob("*.part"))
        if parts and parts[0].stat().st_size > 2_500_000:
            assert list(recover(folder).values()) == [f"{parts[0]}: still being written"]
            break
        time.sleep(0.02)
    car.send_signal(signal.SIGKILL)
    car.wait()
    return next(folder.glob("*.part"))


def test_a_killed_recording_is_recovered_to_its_last_chunk(killed, tmp_path):
    part = Path(shutil.copy(killed, tmp_path))
    ((_, path),) = recover(tmp_path).items()
    assert path == part.with_suffix("")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    clip = log.read_drive(path)
    assert clip.meta["campaign"] == "c"
    assert len(clip.t) > 50
    np.testing.assert_allclose(clip.t, 0.1 * np.arange(len(clip.t)), atol=1e-9)
    assert abs(len(clip.video.t) - len(clip.t)) <= 1
    assert len(log.decode_video(clip.video)) == len(clip.video.t)
    reader = make_reader(io.BytesIO(path.read_bytes()), validate_crcs=True)
    assert len(list(reader.iter_messages())) == reader.get_summary().statistics.message_count
    assert recover(tmp_path) == {}


HEAD = 1000
"""Bytes before the first chunk, at most."""


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), flip=st.booleans())
def test_wherever_it_was_cut_it_is_recovered_or_refused_in_one_line(killed, tmp_path_factory, share, flip):
    folder = tmp_path_factory.mktemp("cut")
    data = bytearray(killed.read_bytes())
    place = int(share * (len(data) - 1))
    if flip:
        data[place] ^= 0x55  # a sector that the disk lost
    else:
        data = data[:place]
    (folder / "a.mcap.part").write_bytes(data)
    ((part, got),) = recover(folder).items()
    if isinstance(got, Path) and flip and place < HEAD:  # metadata has no checksum: only reading tells
        with contextlib.suppress(ValueError):
            log.read_drive(got)
    elif isinstance(got, Path):
        clip = log.read_drive(got)
        np.testing.assert_allclose(clip.t, 0.1 * np.arange(len(clip.t)), atol=1e-9)
    else:
        assert got.startswith(f"{part}: ")
        assert "\n" not in got
        assert place < 1.2 * stream.CHUNK_BYTES


FULL = """
import os, sys, time
import numpy as np
from drivefoundry_car.recording import stream
from drivefoundry_car.recording.recorder import Recorder
stream.CHUNK_BYTES = 4000
recording = Recorder(sys.argv[1], {}, {"drive": "d"})
def minute(begin):
    for i in range(300):
        recording.push_ego(begin + i * 0.1, np.random.default_rng(i).random(7))
        if i == 150:
            recording.trigger("c", begin + 15.0)
for k, room in enumerate((100, 9_000, 10**9)):
    os.environ["FULL_BYTES"] = str(room)
    failed = recording.counts().failed
    minute(100.0 * k)
    while k < 2 and recording.counts().failed == failed:
        time.sleep(0.01)
recording.close()
print(recording.counts())
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    out = tmp_path_factory.mktemp("disk") / "full_disk.so"
    source = Path(__file__).parents[2] / "full_disk.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(source), "-ldl"], check=True)
    return out


def test_a_full_disk_costs_the_clip_and_nothing_else(tmp_path, full_disk):
    under = {**os.environ, "LD_PRELOAD": str(full_disk), "FULL_UNDER": str(tmp_path), "FULL_BYTES": "0"}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], env=under, capture_output=True, text=True)
    assert done.stdout == "RecorderCounts(dropped={}, clips=1, failed=2)\n"
    said = f"{tmp_path}: gave up a clip: No space left on device; free some space"
    assert done.stderr.splitlines() == [said] * 2
    (clip,) = [log.read_drive(p) for p in tmp_path.glob("*.mcap")]
    assert (clip.t[0], len(clip.t)) == (pytest.approx(203.0), 200)
    ((_, path),) = recover(tmp_path).items()  # what had room is there
    part = log.read_drive(path)
    assert part.t[0] == pytest.approx(103.0)
    assert 10 < len(part.t) < 60


ROOM = """
import os, sys
from pathlib import Path
import numpy as np
from drivefoundry_car.upload.collector import Collector
from drivefoundry_car.upload.outbox import Note
from drivefoundry_car.recording.recent import Moment
from drivefoundry_car.triggers import campaign
spool = Path(sys.argv[1])
brake = campaign("brake", {"rule": "accel < -4 m/s^2", "priority": 60, "before_s": 2.0, "after_s": 2.0})
with Collector(spool, {}, [brake], {"vehicle": "car-1", "drive": "d"}) as car:
    for name, priority in (("trivial", 1), ("crash", 99)):
        (spool.parent / name).write_text(name * 1000)
        car.outbox.put(spool.parent / name, Note(name, priority))
    os.environ["FULL_BYTES"] = "3000"
    real = car.outbox.make_room
    def make_room(count, priority):
        made = real(count, priority)
        if made:
            os.environ["FULL_BYTES"] = "1000000000"
        return made
    car.outbox.make_room = make_room
    for i in range(100):
        car.tick(Moment(i * 0.1, np.array([i, 0, 0, 10.0, -6.0 if 40 <= i < 45 else 0.0, 0, 0])))
        car.recorder.settle()
counts = car.counts()
print(counts.recorded, counts.failed, counts.evicted, *[q.note.campaign for q in car.outbox.waiting()])
"""


def test_an_upload_in_progress_displaces_a_less_valuable_one(tmp_path, full_disk):
    under = {**os.environ, "LD_PRELOAD": str(full_disk), "FULL_UNDER": str(tmp_path / "spool"), "FULL_BYTES": "100000"}
    command = [sys.executable, "-c", ROOM, str(tmp_path / "spool")]
    done = subprocess.run(command, env=under, capture_output=True, text=True)
    assert done.stdout == "1 0 1 crash brake\n", done.stderr
    assert [line.partition("dropped")[2] for line in done.stderr.splitlines()] == [
        " to make room (campaign 'trivial', priority 1)"
    ]
