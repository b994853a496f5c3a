"""A car's clips land in a bucket exactly once, even if the bucket is unavailable while they arrive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from bucket import s3
from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry_car.log import read_drive, write_drive
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader

SECRET = "0123456789abcdef" * 2
URL = "s3://clips/fleet"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with s3(tmp_path / "s3") as service:
        for name, value in service.settings().items():
            monkeypatch.setenv(name, value)
        yield service


@pytest.fixture(scope="module")
def clips(make_drive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for i in range(2):
        write_drive(folder / f"{i}.mcap", make_drive(steps=30, seed=i, frames=i == 0))
    return [folder / f"{i}.mcap" for i in range(2)]


def copies(clips: list[Path], folder: Path) -> list[Path]:
    """Copies that an uploader may remove."""
    folder.mkdir(exist_ok=True)
    return [Path(shutil.copy(c, folder)) for c in clips]


def test_a_service_of_a_bucket_as_operators_run_it(bucket, clips, tmp_path, capsys):
    place = ["--store", URL, "--folder", str(tmp_path / "incoming")]
    assert cli.main(["ingest", "enrol", "car-1", *place]) == 0
    code = capsys.readouterr().out.strip()
    command = [sys.executable, "-m", "drivefoundry", "ingest", "serve", *place, "--port", "0"]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=around) as process:
        try:
            assert process.stdout is not None
            credential = Credential(process.stdout.readline().split()[0], tmp_path / "car.json")
            credential.enrol(code)
            car = Uploader(credential.server, credential, tmp_path / "queue")
            first = car.send_all(copies(clips, tmp_path / "recorded"))
            again = car.send_all(copies(clips, tmp_path / "recorded"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert [r.sent > 0 for r in first] == [True, True]
    assert [(r.sha256, r.sent) for r in again] == [(r.sha256, 0) for r in first]
    store = ClipStore(URL)
    assert sorted(store.ids()) == sorted(r.sha256 for r in first)
    back = {store.drive(clip).meta["drive"]: store.drive(clip) for clip in store.ids()}
    was = read_drive(clips[0])
    assert back[was.meta["drive"]].video.packets == was.video.packets
    assert not list((tmp_path / "incoming/landing").glob("*.mcap"))


def test_clips_that_come_while_the_bucket_is_away_land_when_it_is_back(bucket, clips, tmp_path):
    store, folder = ClipStore(URL), tmp_path / "incoming"
    with running(store, SECRET, folder=folder, apart=True) as service:
        (bucket.folder / "clips").rename(bucket.folder / "aside")
        car = Uploader(service.url, issue_token(SECRET, "car-1", 600.0), tmp_path / "queue")
        sent = car.send_all(copies(clips, tmp_path / "recorded"))
        assert len(sent) == 2
        with pytest.raises(ConnectionError, match="there is no such bucket"):
            service.flush()
        _until(lambda: httpx.get(f"{service.url}/health").status_code == 503)
        assert "there is no such bucket" in httpx.get(f"{service.url}/health").text
        assert len(list((folder / "landing").glob("*.mcap"))) == 2
        (bucket.folder / "aside").rename(bucket.folder / "clips")
        _until(lambda: service.landing.counts() == {"landed": 2, "waiting": 0})
        _until(lambda: httpx.get(f"{service.url}/health").status_code == 200)
    assert sorted(ClipStore(URL).ids()) == sorted(r.sha256 for r in sent)
    assert not list((folder / "landing").rglob("*.mcap"))


def _until(met, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)
