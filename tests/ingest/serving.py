"""The ingest service as operators run it, in separate processes, with shared parts of its tests."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry_car.upload.enrol import Credential

TUS = {"Tus-Resumable": "1.0.0"}
BODY = {"Content-Type": "application/offset+octet-stream"}
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Service:
    """`drivefoundry ingest serve` over a store."""

    url: str
    store: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def enrolled(self, vehicle: str, folder: Path, url: str | None = None) -> Credential:
        """A credential of a vehicle invited by an operator."""
        code = invited(self.store, vehicle)
        credential = Credential(url or self.url, folder / f"{vehicle}.json")
        assert Credential(self.url, credential.file).enrol(code) == vehicle
        return credential

    def stop(self) -> None:
        """Ask it to stop; it does so cleanly."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def invited(store: Path, vehicle: str) -> str:
    """A one-time code for a vehicle."""
    vehicles = Vehicles(store / "incoming" / "vehicles.db")
    try:
        return vehicles.invite(vehicle)
    finally:
        vehicles.close()


@contextmanager
def serving(
    store: Path, *options: str, port: int = 0, nofile: int | None = None, **environment: str
) -> Iterator[Service]:
    """The service in a separate process, killed at the end unless it has stopped before. nofile: its limit of file
    descriptors."""
    command = [sys.executable, "-m", "drivefoundry", "ingest", "serve", "--store", str(store), "--port", str(port)]
    if nofile is not None:
        command = ["sh", "-c", f'ulimit -n {nofile}; exec "$@"', "sh", *command]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=around) as process:
        try:
            assert process.stdout is not None
            yield Service(process.stdout.readline().split()[0], store, process)
        finally:
            process.kill()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def landed(store: Path) -> list[str]:
    """The clips in the table, one entry per row."""
    return sorted(ClipStore(store).rows(["id"])["id"].to_pylist())


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def about(data: bytes, sha: str | None = None) -> dict[str, str]:
    """Headers that begin an upload of these bytes."""
    sha = sha or hashlib.sha256(data).hexdigest()
    return {**TUS, "Upload-Length": str(len(data)),
            "Upload-Metadata": "sha256 " + base64.b64encode(sha.encode()).decode()}  # fmt: skip


def preloaded(name: str, folder: Path) -> str:
    """A library of tests/, compiled, for LD_PRELOAD."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    out = folder / f"{name}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(TESTS / f"{name}.c"), "-ldl"], check=True)
    return str(out)
