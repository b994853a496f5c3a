"""Acknowledged clips stay in the landing folder until they are durable in the store."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import httpx
import pytest
from serving import BODY, about

from drivefoundry.clips.prepared import Prepared, prepare
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.landing import Landing
from drivefoundry.ingest.uploads import Uploads
from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.uploader import Uploader, UploadLimits


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


@pytest.fixture
def parts(make_drive, tmp_path) -> dict[str, Path]:
    """Three uploads of car-1, by their hashes."""
    out = {}
    for seed in range(3):
        part = tmp_path / f"{seed}.part"
        write_drive(part, make_drive(steps=10, seed=seed))
        out[hashlib.sha256(part.read_bytes()).hexdigest()] = part
    return out


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def unreadable(file: Path) -> None:
    """A file that cannot be read, even by root: a link to itself."""
    file.unlink()
    file.symlink_to(file.name)


def damaged(file: Path) -> None:
    file.write_bytes(b"junk")


@pytest.mark.parametrize("harm", [gone, a_folder, unreadable, damaged])
@pytest.mark.parametrize("restarted", [False, True])
def test_one_bad_file_is_set_aside_and_the_rest_lands(parts, tmp_path, harm, restarted):
    store, folder = ClipStore(tmp_path / "store"), tmp_path / "landing"
    again = {sha: part.read_bytes() for sha, part in parts.items()}
    bad, *good = parts
    if restarted:  # acknowledged, then the service was killed
        folder.mkdir()
        for sha, part in parts.items():
            os.replace(part, folder / f"{sha}.mcap")
        harm(folder / f"{bad}.mcap")
        landing = Landing(store, folder)
    else:
        landing = Landing(store, folder, check=lambda path, sha, vehicle: None,
                          make=lambda path, sha: prepare(path, store.objects, sha))  # fmt: skip
        for sha, part in parts.items():
            landing.take(part, sha, "car-1")
        harm(folder / f"{bad}.mcap")
    landing.flush()
    assert sorted(store.ids()) == sorted(good)
    assert (landing.trouble, landing.counts()["waiting"]) == ("", 0)
    assert landing.set_aside == (0 if restarted and harm is gone else 1)
    assert not landing.has(bad, "car-1")
    if not restarted:
        assert landing.lost("car-1") == [bad]
        assert landing.lost("car-2") == []
    assert harm is gone or any((folder / "damaged").glob(f"{bad}.mcap*"))
    landing.close()

    landing = Landing(store, folder)  # what was lost is known at the next start, until it is sent again
    assert restarted or landing.lost("car-1") == [bad]
    part = tmp_path / "again.part"
    part.write_bytes(again[bad])
    landing.take(part, bad, "car-1")
    landing.close()
    assert sorted(store.ids()) == sorted(parts)
    assert landing.lost("car-1") == []


def test_the_stores_trouble_is_no_files_fault_and_shows_no_path(parts, tmp_path):
    store, folder, full = ClipStore(tmp_path / "store"), tmp_path / "landing", [True]

    def make(path: Path, sha: str) -> Prepared:
        if full[0]:
            raise OSError(f"object store {tmp_path}/objects: cannot write {tmp_path}/x (disk quota met)")
        return prepare(path, store.objects, sha)

    landing = Landing(store, folder, check=lambda path, sha, vehicle: None, make=make)
    for sha, part in parts.items():
        landing.take(part, sha, "car-1")
    end = time.monotonic() + 60
    while not landing.trouble:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "disk quota met" in landing.trouble
    assert str(tmp_path) not in landing.trouble
    assert landing.counts()["waiting"] == 3
    full[0] = False
    landing.close()
    assert sorted(store.ids()) == sorted(parts)
    assert not list(folder.glob("**/*.mcap"))


def test_folders_and_foreign_files_among_uploads_are_left_alone(tmp_path):
    folder = tmp_path / "uploads"
    uploads = Uploads(folder)
    kept = uploads.create("car-1", "0" * 64, 10)
    assert kept is not None
    uploads.part(kept).write_bytes(b"12345")
    name = "f" * 32
    for entry in ("notes", f"{name}.part", f"{name}.json"):
        (folder / entry).mkdir()
        (folder / entry / "inside").write_text("mine")
    (folder / "read.me").write_text("mine")
    (folder / f"{'e' * 32}.part").write_bytes(b"nobody's")
    (folder / f"{'e' * 32}.json").write_text("{}")
    again = Uploads(folder)
    assert len(again) == 1
    assert again.offset(kept) == 5
    assert (folder / "read.me").read_text() == "mine"
    assert len(list(folder.rglob("inside"))) == 3
    assert not list(folder.glob("e*"))


@pytest.mark.parametrize("harm", [a_folder, unreadable])
def test_an_unreadable_upload_starts_afresh(tmp_path, make_drive, harm):
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    data, secret = (tmp_path / "a.mcap").read_bytes(), "0123456789abcdef" * 2
    who = {"Authorization": f"Bearer {issue_token(secret, 'car-1')}"}
    with running(ClipStore(tmp_path / "store"), secret) as service:
        place = httpx.post(f"{service.url}/uploads", headers=about(data) | who).headers["Location"]
        head = about(data) | who | BODY
        half = httpx.patch(service.url + place, content=data[:100], headers=head | {"Upload-Offset": "0"})
        assert half.status_code == 204
        (part,) = (tmp_path / "store/incoming/uploads").glob("*.part")
        harm(part)
        uploader = Uploader(service.url, issue_token(secret, "car-1"), tmp_path / "queue", UploadLimits(backoff=0.01))
        (receipt,) = uploader.send_all([tmp_path / "a.mcap"])
        assert service.flush() == [receipt.sha256]
    assert len(list((tmp_path / "store/incoming/uploads/aside").iterdir())) == 1
