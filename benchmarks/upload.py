"""Upload a fleet's clips over links that break: nothing lost, nothing duplicated, and how fast; one line of JSON.

    python -m benchmarks.upload [--quick] [--peers PYTHON]

200 vehicles send a clip of 10 MB each at the same time over loopback, from separate processes to `drivefoundry ingest
serve`; every twentieth connection is cut somewhere within a clip. Ours ends when each clip is hashed, checked, durable
and acknowledged; rows are written when cars are quiet, and `stop_and_land_s` is the time for the rest. The peer, a
plain tuspyserver with tuspy clients, receives the same files over unbroken connections and checks nothing; each tuspy
client sends its file in one request, its default and fastest mode. Both get the same number of client processes; queues
are filled and vehicles enrolled before the clock starts. Rounds of the two alternate, and the ratio is the median over
rounds. CPU seconds are those of all processes of a side while it sends. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import report
from benchmarks.peer import last_lines, missing, not_installed
from drivefoundry.clips.store import ClipStore
from drivefoundry.compute import cores
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry_car.log import Drive, encode_video, write_drive
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

CUT_EVERY = 20
"""Every CUT_EVERY-th connection breaks: 5 %."""
RATIO = 1.0
PEER = Path(__file__).parent / "peers" / "tus.py"
PEER_S = 300.0


@dataclass(frozen=True)
class Size:
    """Number of vehicles with one clip each, bytes of a clip, rounds."""

    vehicles: int = 200
    clip: int = 10_000_000
    rounds: int = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 vehicles with 2 MB each, one round")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="interpreter that has the peers")
    asked = parser.parse_args()
    size = Size(20, 2_000_000, 1) if asked.quick else Size()
    with tempfile.TemporaryDirectory(prefix="drivefoundry-upload-") as folder:
        made = Path(folder, "made")
        clips = make_clips(made, size)
        total = sum(file.stat().st_size for file in clips)
        rounds, versions = [], {}
        for i in range(size.rounds):
            theirs = peer(asked.peers, clips, Path(folder, "peer"))
            versions |= theirs.pop("versions", {})
            ours = fleet(clips, Path(folder, "ours"))
            rounds.append((ours, theirs))
            say(f"round {i + 1}: {ours}; peer {theirs}; load {os.getloadavg()[0]:.1f}")
    figures, targets = judged(size, total, rounds)
    print(report(figures, targets, versions), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def judged(
    size: Size, total: int, rounds: list[tuple[dict[str, Any], dict[str, Any]]]
) -> tuple[dict[str, float], dict[str, tuple[float, float, bool]]]:
    """Figures and targets from rounds of ours and the peer's."""
    ours = [o for o, _ in rounds]
    figures: dict[str, float] = {"vehicles": size.vehicles, "clips_mb": total / 1e6, "rounds": len(rounds)}
    for name in ("lost", "doubled", "connections", "cut"):
        figures[name] = sum(o[name] for o in ours)
    figures["mb_per_s"] = statistics.median(total / 1e6 / o["seconds"] for o in ours)
    figures["cpu_s"] = statistics.median(o["cpu_s"] for o in ours)
    figures["stop_and_land_s"] = statistics.median(o["stop_s"] for o in ours)
    targets = {name: (figures[name], 0.0, figures[name] == 0) for name in ("lost", "doubled")}
    both = [(o, t) for o, t in rounds if t]
    if both:
        figures["peer_mb_per_s"] = statistics.median(total / 1e6 / t["seconds"] for _, t in both)
        figures["peer_cpu_s"] = statistics.median(t["cpu_s"] for _, t in both)
        ratio = statistics.median(t["seconds"] / o["seconds"] for o, t in both)
        figures["throughput_ratio"] = ratio
        targets["throughput_ratio"] = (ratio, RATIO, ratio >= RATIO)
    return figures, targets


def make_clips(folder: Path, size: Size) -> list[Path]:
    """One clip per vehicle: 20 s of driving, its video padded with noise to the requested size."""
    folder.mkdir()
    rng, steps = np.random.default_rng(0), 200
    t = np.arange(steps) * 0.1
    ego = np.zeros((steps, 7))
    ego[:, 0], ego[:, 3] = 10 * t, 10
    frames = np.full((steps, 64, 160, 3), 90, np.uint8)
    video = encode_video(frames, t, (95.3, 95.3, 80.0, 28.0), (1.0, 0.0, 1.5, 0.0))
    each = size.clip // steps
    files = []
    for i in range(size.vehicles):
        noise = [b"\x00\x00\x00\x01\x06" + rng.bytes(each).replace(b"\x00", b"\x01") for _ in range(steps)]
        packets = [p + n for p, n in zip(video.packets, noise, strict=True)]
        drive = Drive({"vehicle": f"car-{i}", "drive": f"drive-{i}"}, t, ego, video=replace(video, packets=packets))
        files.append(folder / f"{i}.mcap")
        write_drive(files[-1], drive)
    return files


class Cut(socket.socket):
    """A socket whose link breaks after a given number of bytes of files."""

    left = 0

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        assert count is not None
        sent = super().sendfile(file, offset, min(count, self.left))
        self.left -= sent
        if not self.left:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
            self.close()
            raise ConnectionResetError("the link broke")
        return sent


class Links:
    """Connections of one client process, some of which are cut."""

    def __init__(self, seed: int) -> None:
        self.made = self.cut = 0
        self._lock, self._rng = threading.Lock(), random.Random(seed)
        self._phase = self._rng.randrange(CUT_EVERY)

    def open(self, link: HTTPConnection, size: int) -> None:
        """To be called once the link is connected."""
        with self._lock:
            self.made += 1
            if self.made % CUT_EVERY != self._phase:
                return
            self.cut += 1
            left = self._rng.randrange(1, size)
        sock = link.sock
        timeout = sock.gettimeout()
        cut = Cut(fileno=sock.detach())
        cut.settimeout(timeout)
        cut.left = left
        link.sock = cut


class Car(Uploader):
    """An uploader whose connections come from `links`."""

    links: Links
    size: int

    def connect(self) -> HTTPConnection:
        links, size = self.links, self.size

        class Link(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                links.open(self, size)

        link = super().connect()
        return Link(link.host, link.port, timeout=self.limits.timeout)


def cars(url: str, codes: dict[str, str], clips: list[Path], folder: Path, seed: int, pipe: Connection) -> None:
    """One client process: one thread per vehicle, all starting together; results go into the pipe."""
    links, limits = Links(seed), UploadLimits(backoff=0.05, attempts=20, connections=1)
    uploaders = []
    for (vehicle, code), clip in zip(codes.items(), clips, strict=True):
        credential = Credential(url, folder / vehicle / "credential.json")
        credential.enrol(code)
        car = Car(url, credential, folder / vehicle / "queue", limits)
        car.links, car.size = links, clip.stat().st_size
        link = folder / f"{vehicle}.mcap"
        os.link(clip, link)
        car.enqueue(link)
        uploaders.append(car)
    receipts: list[str] = []
    threads = [threading.Thread(target=lambda c=c: receipts.extend(r.sha256 for r in c.send_all())) for c in uploaders]
    pipe.send("ready")
    pipe.recv()
    before = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu = time.process_time() - before
    pipe.send({"receipts": receipts, "connections": links.made, "cut": links.cut, "cpu_s": cpu})


def fleet(clips: list[Path], folder: Path) -> dict[str, Any]:
    """Upload all clips through the ingest service, over links that break."""
    folder.mkdir()
    store = folder / "store"
    service = [sys.executable, "-m", "drivefoundry", "ingest", "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(service, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    vehicles = Vehicles(store / "incoming" / "vehicles.db")
    spawn, begun = multiprocessing.get_context("spawn"), []
    for k in range(cores()):
        some = clips[k :: cores()]
        codes = {f"car-{clip.stem}": vehicles.invite(f"car-{clip.stem}") for clip in some}
        ours, theirs = spawn.Pipe()
        begun.append((ours, spawn.Process(target=cars, args=(url, codes, some, folder, k, theirs))))
        begun[-1][1].start()
    vehicles.close()
    for pipe, _ in begun:
        pipe.recv()
    start, before = time.perf_counter(), cpu_of(process.pid)
    for pipe, _ in begun:
        pipe.send("go")
    told = [pipe.recv() for pipe, _ in begun]
    seconds, server_cpu = time.perf_counter() - start, cpu_of(process.pid) - before
    for _, client in begun:
        client.join()
    stopped = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, "the service did not stop in order"
    stop_s = time.perf_counter() - stopped
    receipts = [sha for t in told for sha in t["receipts"]]
    lost, doubled = compared(store, clips, receipts)
    shutil.rmtree(folder)
    counts = {name: sum(t[name] for t in told) for name in ("connections", "cut")}
    cpu = server_cpu + sum(t["cpu_s"] for t in told)
    return {"seconds": seconds, "cpu_s": cpu, "stop_s": stop_s, "lost": lost, "doubled": doubled, **counts}


def compared(folder: Path, clips: list[Path], receipts: list[str]) -> tuple[int, int]:
    """Number of clips lost (not acknowledged, not in the store, or without their whole video), and duplicated."""
    store = ClipStore(folder)
    rows = store.rows(["id", "vehicle", "video"]).to_pylist()
    whole = set()
    for row in rows:
        store.objects.get(row["video"])  # verified by its hash
        whole.add((row["id"], row["vehicle"]))
    acknowledged = {(sha, vehicle) for sha, vehicle in whole if sha in set(receipts)}
    lost = len(clips) - len({vehicle for _, vehicle in acknowledged})
    return lost, len(rows) - len({row["id"] for row in rows})


def peer(python: str, clips: list[Path], folder: Path) -> dict[str, Any]:
    """Send the same files to a plain tuspyserver; returns nothing, and prints a line, if the peers are not installed.
    SystemExit with the last output if one fails."""
    absent = missing(python, "tuspyserver", "tusclient")
    if absent:
        say(not_installed(python, absent))
        return {}
    folder.mkdir()
    command = [python, "-P", str(PEER)]
    with tempfile.TemporaryFile("w+") as said:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
        with subprocess.Popen([*command, "serve", str(folder)], **pipes) as server:
            try:
                return _peer(command, server, clips, folder, pipes)
            except (ValueError, BrokenPipeError) as error:
                raise SystemExit(f"peer {PEER.name} failed ({error}); its last lines:\n{last_lines(said)}") from None
            finally:
                server.kill()
                shutil.rmtree(folder)


def _peer(
    command: list[str], server: subprocess.Popen[str], clips: list[Path], folder: Path, pipes: dict[str, Any]
) -> dict[str, Any]:
    assert server.stdout is not None
    url = json.loads(server.stdout.readline())["url"]
    senders = []
    for k in range(cores()):
        files = [str(clip) for clip in clips[k :: cores()]]
        senders.append(subprocess.Popen([*command, "send", url, "0", *files], **pipes))
    for sender in senders:
        if sender.stdout.readline() != "ready\n":
            raise ValueError("a sender did not start")
    start, before = time.perf_counter(), cpu_of(server.pid)
    for sender in senders:
        sender.stdin.write("go\n")
        sender.stdin.flush()
    told = [json.loads(sender.stdout.readline()) for sender in senders]
    seconds, cpu = time.perf_counter() - start, cpu_of(server.pid) - before
    for sender in senders:
        sender.communicate(timeout=PEER_S)
    came = sorted(f.stat().st_size for f in folder.iterdir() if f.is_file() and not f.suffix)
    if came != sorted(clip.stat().st_size for clip in clips):
        raise ValueError("it has not received every file")
    return {"seconds": seconds, "cpu_s": cpu + sum(t["cpu_s"] for t in told), "versions": told[0]["versions"]}


def cpu_of(pid: int) -> float:
    """CPU seconds so far of a process and its children."""
    spent = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if pid in (int(stat.parent.name), int(fields[1])):
                spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
