"""Nothing counts as finished, and nothing is taken from where it was, before it is on the disk under its name."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from drivefoundry_car import durable, outbox, recorder, stream
from drivefoundry_car.outbox import Note, Outbox


def test_json_is_whole_private_and_alone(tmp_path):
    durable.write_json(tmp_path / "a.json", {"b": 1})
    durable.write_json(tmp_path / "a.json", {"b": 2}, durable=False)
    assert (tmp_path / "a.json").read_text() == '{"b": 2}'
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_queued_clip_is_on_the_disk_before_its_source_is_gone(tmp_path, monkeypatch, elsewhere):
    """elsewhere: recorded on another file system than the queue's."""
    shared = Path("/dev/shm")
    if elsewhere and not (shared.is_dir() and shared.stat().st_dev != tmp_path.stat().st_dev):
        pytest.skip("one file system here")
    seen = []

    def sync(path):
        durable.sync(path)
        seen.append((path.name, source.exists(), len(list((tmp_path / "queue").glob("*.mcap")))))

    monkeypatch.setattr(outbox, "sync", sync)
    with tempfile.TemporaryDirectory(dir=shared if elsewhere else tmp_path) as folder:
        source = Path(folder) / "clip.mcap"
        source.write_bytes(b"clip")
        sha = Outbox(tmp_path / "queue").put(source, Note("c", 1))
        assert not source.exists()
    assert sorted(p.name for p in (tmp_path / "queue").iterdir()) == [f"{sha}.json", f"{sha}.mcap"]
    assert seen[0] == ("clip.mcap", True, 0)
    assert seen[-1] == ("queue", False, 1)
    if elsewhere:
        assert [(name.endswith(".part"), *rest) for name, *rest in seen[1:-1]] == [(True, True, 0), (False, True, 1)]


def test_a_recorded_clip_is_on_the_disk_before_it_is_told(tmp_path, monkeypatch):
    done = []
    real = os.fsync

    def fsync(opened):
        real(opened)
        done.append(os.readlink(f"/proc/self/fd/{opened}"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    monkeypatch.setattr(stream.os, "fsync", fsync)
    told = []
    with recorder.Recorder(tmp_path, {}, {"drive": "d"}, on_clip=lambda: told.extend(done)) as recording:
        for i in range(30):
            recording.push_ego(i * 0.1, [float(i)] * 7)
        recording.trigger("c", 2.0, before_s=1.0, after_s=1.0)
    (clip,) = tmp_path.glob("*.mcap")
    assert told[0] == str(tmp_path)  # that the file is there at all
    assert told[1:] == [f"{clip}.part", f"{clip}.part", str(tmp_path)]  # its chunk, its summary, its name
