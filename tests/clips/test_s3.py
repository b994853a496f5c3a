"""Clips, objects and commits in a bucket, over the S3 protocol; and error messages for faulty buckets."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

from bucket import s3
from drivefoundry import cli
from drivefoundry.clips import checking
from drivefoundry.clips.checking import Checkers
from drivefoundry.clips.objects import ObjectStore
from drivefoundry.clips.prepared import Prepared
from drivefoundry.clips.store import SCHEMA, ClipStore
from drivefoundry_car.log import read_drive, write_drive


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket, and the environment of its clients."""
    with s3(tmp_path / "s3") as service:
        set_all(monkeypatch, service.settings())
        yield service


def set_all(monkeypatch, settings) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def files(make_drive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(3):
        write_drive(folder / f"{i}.mcap", make_drive(steps=30, seed=i, frames=i == 0))
    return [folder / f"{i}.mcap" for i in range(3)]


def row(clip: str) -> Prepared:
    return Prepared(dict.fromkeys(SCHEMA.names) | {"id": clip})


def test_objects_are_kept_in_a_bucket(bucket):
    objects = ObjectStore("s3://clips/some/where")
    sha = objects.put(b"bytes")
    assert sha == hashlib.sha256(b"bytes").hexdigest()
    file = bucket.folder / "clips/some/where" / sha[:2] / sha[2:4] / sha
    assert file.read_bytes() == objects.get(sha) == b"bytes"
    writes = bucket.asked.count(("PUT", 200))
    assert objects.put(b"bytes") == sha
    assert bucket.asked.count(("PUT", 200)) == writes
    objects.set_name("maps/1", sha)
    assert objects.named("maps/1") == sha
    listed = [o["path"] for page in obstore.list(objects._store) for o in page]
    assert sorted(listed) == sorted([f"{sha[:2]}/{sha[2:4]}/{sha}", "names/maps/1"])
    file.write_bytes(b"bytez")
    with pytest.raises(ValueError, match="damaged in s3://clips"):
        objects.get(sha)
    file.unlink()
    assert not objects.has(sha)
    with pytest.raises(ValueError, match=f"object {sha}: not in s3://clips/some/where"):
        objects.get(sha)


def test_a_large_video_goes_up_in_parts(bucket):
    objects, data = ObjectStore("s3://clips/large"), os.urandom(11 << 20)
    assert objects.get(objects.put(data)) == data
    assert bucket.asked.count(("POST", 200)) == 2


@pytest.mark.parametrize("url", ["s3://clips/fleet", "s3://clips", "s3://clips/fleet/"])
def test_clips_land_once_and_come_back(bucket, files, url):
    store = ClipStore(url)
    assert (store.ids(), store.version) == ([], 0)
    ids = store.land(files[:2])
    assert store.land(files) == [*ids, hashlib.sha256(files[2].read_bytes()).hexdigest()]
    again = ClipStore(url)
    assert again.ids() == store.ids()
    assert len(again.ids()) == 3
    assert again.rows(["frames"])["frames"].to_pylist() == [30, 0, 0]
    back, was = again.drive(ids[0]), read_drive(files[0])
    assert (back.meta, back.video.packets) == (was.meta, was.video.packets)
    again.put_map("1a", b"map")
    assert store.get_map("1a") == b"map"


def append_all(url: str, writer: int, count: int) -> None:
    store = ClipStore(url)
    for i in range(count):
        store.append([row(f"{writer}-{i}"), row(f"both-{i}")])


def test_writers_at_once_lose_and_double_nothing(bucket):
    """Threads with one store each and a separate process: some commits are refused (412) and retried."""
    url, count = "s3://clips/shared", 3
    other = multiprocessing.get_context("spawn").Process(target=append_all, args=(url, 0, count))
    other.start()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda writer: append_all(url, writer, count), (1, 2)))
    other.join(60)
    assert other.exitcode == 0
    wanted = [f"{who}-{i}" for who in (0, 1, 2, "both") for i in range(count)]
    assert sorted(ClipStore(url).ids()) == sorted(wanted)
    assert ("PUT", 412) in bucket.asked


def test_a_store_that_does_not_heed_conditions_gets_no_table(tmp_path, monkeypatch):
    with s3(tmp_path, heedless=True) as service:
        set_all(monkeypatch, service.settings())
        store = ClipStore("s3://clips/a")
        with pytest.raises(ValueError, match=r"s3://clips/a/objects: it ignores If-None-Match"):
            store.append([row("a")])


@pytest.mark.parametrize(
    ("url", "changed", "says"),
    [
        ("s3://nope/a", {}, "there is no such bucket; create it"),
        ("s3://clips/a", {"AWS_ACCESS_KEY_ID": "x"}, r"refused \(InvalidAccessKeyId\); set AWS_ACCESS_KEY_ID and"),
        ("s3://clips/a", {"AWS_SECRET_ACCESS_KEY": "x"}, r"refused \(SignatureDoesNotMatch\); set AWS_ACCESS_KEY_ID"),
        ("s3://clips/a", {"AWS_REGION": "us-east-1"}, "in another region; set AWS_REGION"),
        ("s3://clips/a", {"AWS_ALLOW_HTTP": "false"}, "plain http is not allowed; set AWS_ALLOW_HTTP=true"),
        ("s3://clips/a", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, r"http://127\.0\.0\.1:1: no answer; check that"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused_in_one_line(bucket, tmp_path, monkeypatch, capsys, url, changed, says):
    set_all(monkeypatch, bucket.settings(**changed))
    with pytest.raises(ValueError, match=rf"^object store {url}/objects: .*{says}") as caught:
        ClipStore(url)
    assert "\n" not in str(caught.value)
    assert cli.main(["ingest", "serve", "--store", url, "--folder", str(tmp_path / "incoming")]) == 2
    said = capsys.readouterr().err
    assert url in said
    assert said.count("\n") == 1


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(ValueError, match=r"object store s3:///a/objects: .*give a directory or s3://bucket/prefix"):
        ClipStore("s3:///a")


def test_a_bucket_that_goes_away_is_an_error_of_the_connection(tmp_path, monkeypatch):
    with s3(tmp_path / "s3") as service:
        set_all(monkeypatch, service.settings())
        store = ClipStore("s3://clips/a")
        store.append([row("a")])
        (service.folder / "clips").rename(service.folder / "aside")
        uses = (
            store.ids,
            lambda: store.append([row("b")]),
            lambda: store.objects.put(b"x"),
            lambda: store.get_map("x"),
        )
        for use in uses:
            with pytest.raises(ConnectionError, match=r"store s3://clips/a.*there is no such bucket"):
                use()
        (service.folder / "aside").rename(service.folder / "clips")
        assert store.ids() == ["a"]
    with pytest.raises(ConnectionError, match=r"store s3://clips/a/objects: cannot look for .*no answer"):
        store.objects.has("0" * 64)
    with s3(tmp_path / "s3", service.port):
        store.append([row("b")])
        assert store.ids() == ["a", "b"]


def test_a_store_that_hangs_does_not_make_a_clip_a_damaged_one(files, bucket, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        set_all(monkeypatch, bucket.settings(AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        monkeypatch.setattr(checking, "STORE_S", 0.5)
        checkers = Checkers("s3://clips/a/objects", 1, seconds=0.5)
        try:
            with pytest.raises(OSError, match="storing a clip takes more than 1 s"):
                checkers.prepare(files[0], hashlib.sha256(files[0].read_bytes()).hexdigest())
        finally:
            checkers.close()
