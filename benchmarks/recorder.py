"""Cost of recording in a car: CPU share of one core, memory against its bound, dropped frames; one line of JSON.

    python -m benchmarks.recorder [--quick] [--out DIR]

Six cameras at 20 Hz and 640x360, ego state at 100 Hz, objects (30 per message) at 10 Hz, a route and driver state; a
trigger every 15 s keeps a clip open all the time, so that everything is written. Two runs in separate processes, paced
in real time by the signals' own clock:

- `packets`: H.264 arrives encoded, as from a camera's own processor
- `encoding`: raw RGB frames arrive and are encoded here (x264 ultrafast, one thread per camera, as `encode_video` does)

CPU share is the process's CPU time over wall time, including sensors (packets and messages are prepared beforehand,
pushing is counted) and writer. Memory is the growth of the process's resident set from before the recorder to its peak,
against the recorder's own bound; the encoders' memory is reported separately. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import report
from drivefoundry_car.log import channels, read_drive
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.log.video import Encoder
from drivefoundry_car.recording.recorder import Recorder

CPU_TARGET = 0.60
"""Share of one core."""
NAMES = ("front", "front_left", "front_right", "rear", "rear_left", "rear_right")
WIDTH, HEIGHT, FPS = 640, 360, 20
EGO_HZ, OBJECTS_HZ, OBJECTS = 100, 10, 30
TRIGGER_S = 15.0
CAMERA_BYTES, SIGNAL_BYTES = 2 << 20, 1 << 20
"""Bounds of the rings: full well within the run, so that eviction is measured, too."""
LENS = Camera(WIDTH, HEIGHT, (380.0, 380.0, 320.0, 180.0), (1.0, 0.0, 1.5, 0.0))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorder", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="10 s instead of 60 s each")
    parser.add_argument("--out", type=Path, help="where the clips are written (default: a temporary folder)")
    parser.add_argument("--run", choices=("packets", "encoding"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seconds = 10.0 if asked.quick else 60.0
    if asked.run:
        print(json.dumps(measure(asked.run == "encoding", seconds, asked.out)))
        return 0
    figures: dict[str, float] = {"seconds": seconds, "cameras": len(NAMES)}
    for name in ("packets", "encoding"):
        with tempfile.TemporaryDirectory(prefix="drivefoundry-recorder-", dir=asked.out) as out:
            command = [sys.executable, "-m", "benchmarks.recorder", "--run", name, "--out", out]
            done = subprocess.run(command + ["--quick"] * asked.quick, check=True, stdout=subprocess.PIPE, text=True)
        figures |= {f"{name}_{k}": v for k, v in json.loads(done.stdout.splitlines()[-1]).items()}
    bound = figures["packets_bound_mib"]
    targets = {
        f"{name}_{figure}": (figures[f"{name}_{figure}"], most, figures[f"{name}_{figure}"] <= most)
        for name in ("packets", "encoding")
        for figure, most in (("cpu_share", CPU_TARGET), ("memory_mib", bound), ("dropped", 0))
    }
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def measure(encoding: bool, seconds: float, out: Path) -> dict[str, float]:
    """Figures of one run."""
    frames = [views(k) for k in range(len(NAMES))]
    encoders = {name: Encoder(WIDTH, HEIGHT, FPS) for name in NAMES}
    # A second of packets, which are repeated in the run without encoding, each second with its key frame.
    packets = {n: [encoders[n].encode(f) for f in frames[k]] for k, n in enumerate(NAMES)}
    told = messages()
    before = resident()
    recorder = Recorder(out, {n: LENS for n in NAMES}, {"drive": "benchmark"},
                        camera_bytes=CAMERA_BYTES, signal_bytes=SIGNAL_BYTES)  # fmt: skip
    memory = Peak()
    cpu, begun = time.process_time(), time.monotonic()
    recorder.push(channels.ROUTE, 0.0, told[0])
    late = encode_cpu = slowest = 0.0
    for tick in range(int(seconds * EGO_HZ)):
        t = tick / EGO_HZ
        wait = begun + t - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        late = max(late, -wait)
        recorder.push_ego(t, np.array([10 * t, 0.0, 0.0, 10.0, 0.1, 0.0, 0.02]))
        if tick % (EGO_HZ // FPS) == 0:
            i = tick // (EGO_HZ // FPS)
            for k, name in enumerate(NAMES):
                key, packet = packets[name][i % FPS]
                if encoding:
                    at = time.thread_time()
                    key, packet = encoders[name].encode(frames[k][i % FPS])
                    encode_cpu += time.thread_time() - at
                packet = bytes(bytearray(packet))  # separate memory for each, as for data from a sensor
                at = time.monotonic()
                recorder.push(name, t, packet, key)
                slowest = max(slowest, time.monotonic() - at)
        if tick % (EGO_HZ // OBJECTS_HZ) == 0:
            recorder.push(channels.OBJECTS, t, bytes(bytearray(told[1])))
        if tick % int(TRIGGER_S * EGO_HZ) == 0:
            recorder.push(channels.DRIVER, t, b'{"engaged":true,"takeover":false}')
            recorder.trigger("benchmark", t, before_s=12.0, after_s=20.0)
    recorder.close()
    wall, cpu, most = time.monotonic() - begun, time.process_time() - cpu, memory.stop()
    files, counts = sorted(out.glob("*.mcap")), recorder.counts()
    drives = [read_drive(f) for f in files]
    shown = sum(len(v.t) for d in drives for v in (d.video, *d.others.values()) if v is not None)
    assert shown >= len(NAMES) * seconds * FPS, f"{shown} frames in the files"
    return {
        "cpu_share": cpu / wall,
        "encode_cpu_share": encode_cpu / wall,
        "memory_mib": (most - before) / 2**20,
        "bound_mib": recorder.bound / 2**20,
        "dropped": sum(counts.dropped.values()) + counts.failed,
        "late_ms": 1e3 * late,
        "slowest_push_ms": 1e3 * slowest,
        "file_kib_per_s": sum(f.stat().st_size for f in files) / seconds / 2**10,
        "files": len(files),
    }


def views(k: int) -> np.ndarray:
    """(FPS, HEIGHT, WIDTH, 3) one second of a turning camera: sky, textured road, boxes, and sensor noise, which no
    encoder can predict."""
    rng = np.random.default_rng(k)
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    picture = np.where(rows < 0.45, 190 - 60 * rows, 90 - 20 * rows) * np.ones((1, 2 * WIDTH, 3))
    picture[HEIGHT // 2 :] += rng.normal(0, 12, (HEIGHT // 2 // 4, 2 * WIDTH // 4, 1)).repeat(4, 0).repeat(4, 1)
    for _ in range(40):
        x, y = rng.integers(0, 2 * WIDTH - 80), rng.integers(HEIGHT // 4, HEIGHT - 80)
        h, w = rng.integers(10, 80, 2)
        picture[y : y + h, x : x + w] = rng.integers(0, 255, 3)
    seen = (picture[:, 8 * i : 8 * i + WIDTH] + rng.normal(0, 6, (HEIGHT, WIDTH, 1)) for i in range(FPS))
    return np.stack([np.clip(view, 0, 255).astype(np.uint8) for view in seen])


def messages() -> tuple[bytes, bytes]:
    """A route of 400 m and a message of OBJECTS cars."""
    points = np.column_stack([np.arange(0, 400, 2.0), np.zeros(200), np.full(200, 13.9)])
    n = OBJECTS
    size = np.tile(np.array([4.6, 1.9, 1.6], np.float32), (n, 1))
    state = np.random.default_rng(0).normal(0, 30, (n, 1, 4)).astype(np.float32)
    known = np.ones((n, 1), bool)
    (objects,) = channels.scene_updates(np.arange(n), np.zeros(n, np.int64), size, state, known, [0])
    return json.dumps({"points": points.tolist()}).encode(), objects


def resident() -> int:
    """Resident memory of the process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Peak:
    """Peak resident memory of the process from now to `stop`, sampled 20 times a second."""

    def __init__(self) -> None:
        self._most, self._done = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self._most = max(self._most, resident())

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._most


if __name__ == "__main__":
    sys.exit(main())
