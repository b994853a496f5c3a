"""A car that dies at a chosen moment: python collect_until_killed.py URL TOKEN FOLDER DRIVE WHEN."""

import os
import signal
import sys
from pathlib import Path

from drivefoundry_car.log import read_drive
from drivefoundry_car.recording import stream
from drivefoundry_car.recording.recent import moments
from drivefoundry_car.recording.recorder import Recorder
from drivefoundry_car.triggers import load_campaigns
from drivefoundry_car.upload import collector, outbox
from drivefoundry_car.upload import uploader as upload


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_sending(body: upload._Body, connection) -> None:
    connection.sock.sendfile(body.file, body.begin, body.count // 2)
    die()


def die_with_a_queue(uploader: upload.Uploader, **_: object) -> list[upload.Receipt]:
    if uploader.outbox.waiting():
        die()
    return []


def die_recording(recorder: Recorder, *args) -> None:
    if args[2] > 11.0:
        die()
    recorded(recorder, *args)


recorded = Recorder._write
MOMENTS = {
    "recording": (Recorder, "_write", die_recording),
    "finishing": (stream.McapStream, "_statistics", die),  # chunks are on the disk, the summary is not
    "whole": (collector, "read_meta", die),  # named, not yet looked at
    "queueing": (outbox, "sync", die),  # its note lies in the queue, the clip does not
    "queued": (upload.Uploader, "send_all", die_with_a_queue),
    "sending": (upload._Body, "send", die_sending),
    "acknowledged": (outbox.Outbox, "remove", die),
}

if __name__ == "__main__":
    url, token, folder, file, when = sys.argv[1:]
    setattr(*MOMENTS[when])
    stream.CHUNK_BYTES = 4000
    drive = read_drive(file)
    uploader = upload.Uploader(url, token, Path(folder) / "queue")
    campaigns = load_campaigns(Path(folder) / "campaigns.toml")
    car = collector.Collector(Path(folder) / "spool", {}, campaigns, drive.meta, uploader)
    for now in moments(drive):
        car.tick(now)
        car.recorder.settle()
    signal.pause()  # for the moment to come
