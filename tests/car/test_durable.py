"""Nothing counts as finished, and nothing is removed from its old place, before it is durable under its new name."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from drivefoundry_car import durable
from drivefoundry_car.recording import recorder, stream
from drivefoundry_car.upload.outbox import Note, Outbox


def test_json_is_whole_private_and_alone(tmp_path):
    durable.write_json(tmp_path / "a.json", {"b": 1})
    durable.write_json(tmp_path / "a.json", {"b": 2}, durable=False)
    assert (tmp_path / "a.json").read_text() == '{"b": 2}'
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_text_is_public_and_on_the_disk_only_if_asked(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable.os, "fsync", synced.append)
    durable.write_text(tmp_path / "a", "é")
    assert synced == []
    durable.write_text(tmp_path / "a", "è", durable=True)
    assert len(synced) == 2, "its bytes, then its name"
    assert (tmp_path / "a").read_bytes() == "è".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_queued_clip_is_on_the_disk_before_its_source_is_gone(tmp_path, monkeypatch, elsewhere):
    """elsewhere: recorded on another file system than the queue's."""
    shared = Path("/dev/shm")
    if elsewhere and not (shared.is_dir() and shared.stat().st_dev != tmp_path.stat().st_dev):
        pytest.skip("one file system here")
    seen = []
    real = os.fsync

    def fsync(opened):
        real(opened)
        name = Path(os.readlink(f"/proc/self/fd/{opened}")).name
        seen.append((name, source.exists(), len(list((tmp_path / "queue").glob("*.mcap")))))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    with tempfile.TemporaryDirectory(dir=shared if elsewhere else tmp_path) as folder:
        source = Path(folder) / "clip.mcap"
        source.write_bytes(b"clip")
        monkeypatch.setattr(durable.os, "fsync", fsync)
        sha = Outbox(tmp_path / "queue").put(source, Note("c", 1))
        monkeypatch.undo()
        assert not source.exists()
    assert sorted(p.name for p in (tmp_path / "queue").iterdir()) == [f"{sha}.json", f"{sha}.mcap"]
    clips = [(name.endswith(".part"), *rest) for name, *rest in seen if ".json" not in name]
    assert clips[:2] == [(False, True, 0), (False, True, 0)]  # the note's name, then the clip's bytes
    assert clips[2:] == ([(True, True, 0), (False, True, 1)] if elsewhere else [(False, False, 1)])
    assert seen[-1][0] == "queue"


def test_what_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def halfway():
        with durable.replacing(tmp_path / "a.json") as out:
            out.write(b"half of i")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        halfway()
    with pytest.raises(TypeError):
        durable.write_json(tmp_path / "a.json", {"b": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_sweep_removes_remains_of_kills_and_not_files_being_written(tmp_path):
    killed = tmp_path / ".a.json.1-2.part"
    killed.write_text("half")
    with durable.replacing(tmp_path / "b.json") as out:
        out.write(b"{}")
        assert durable.sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]
    killed.write_text("half")
    assert durable.sweep(tmp_path, "b.json") == 0
    assert killed.exists()


def test_a_recorded_clip_is_durable_before_it_is_reported(tmp_path, monkeypatch):
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
