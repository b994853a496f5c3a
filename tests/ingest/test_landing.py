"""What was acknowledged lies on the disk in the landing folder until what has become of it does."""

from __future__ import annotations

import hashlib
import os

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.landing import Landing
from drivefoundry_car.log import write_drive


def test_a_clips_file_goes_only_after_its_video_and_row_are_on_the_disk(make_drive, tmp_path, monkeypatch):
    part = tmp_path / "a.part"
    write_drive(part, make_drive(steps=20, frames=True))
    sha = hashlib.sha256(part.read_bytes()).hexdigest()
    seen, real = [], os.sync

    def sync():
        real()
        seen.append((ClipStore(tmp_path / "store").ids(), [p.name for p in (tmp_path / "landing").glob("*.mcap")]))

    monkeypatch.setattr(os, "sync", sync)
    landing = Landing(ClipStore(tmp_path / "store"), tmp_path / "landing")
    try:
        landing.take(part, sha, "car-1")
        landing.flush()
    finally:
        landing.close()
    assert seen == [([sha], [f"{sha}.mcap"])]
    assert not list((tmp_path / "landing").iterdir())


def test_a_video_that_a_power_cut_has_shortened_is_written_again(tmp_path):
    objects = ClipStore(tmp_path).objects
    sha = objects.put(b"a video")
    (file,) = (tmp_path / "objects").rglob(sha)
    file.write_bytes(b"")
    assert objects.put(b"a video") == sha
    assert objects.get(sha) == b"a video"
