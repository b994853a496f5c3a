"""Clip files in, receipts from the ingest service out: resumable (tus 1.0), verified by SHA-256.

The queue is a folder of files named by their hash. A file leaves it only when the service has acknowledged that very
hash; nothing else is remembered, so a kill at any moment costs at most the bytes of the request under way.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

TUS = "1.0.0"
AGAIN = {408, 409, 423, 425, 429, 460, 500, 502, 503, 504, 507}
"""Statuses after which the same file may yet get through."""
REFUSED = {403, 413, 422}
"""Statuses that say that the service will never take this file: another vehicle's, too large, no drive."""


@dataclass(frozen=True)
class Receipt:
    """The service has this file: its SHA-256 (= clip id), size, and the bytes sent for it now (0: it was there)."""

    sha256: str
    size: int
    sent: int


class _Later(Exception):
    """An attempt that failed for a reason that may pass."""


class Uploader:
    """A durable queue folder in front of one ingest service.

    server: its URL; token: the vehicle's; chunk: bytes a request; attempts: failures in a row after which a file waits
    for the next `send_all`; backoff: s before the second attempt, doubled each time up to a minute, with full jitter;
    connections: files sent at once.
    """

    def __init__(
        self,
        server: str,
        token: str,
        queue_dir: Path | str,
        chunk: int = 1 << 20,
        *,
        attempts: int = 8,
        backoff: float = 0.25,
        connections: int = 2,
        timeout: float = 60.0,
    ) -> None:
        self.server, self.chunk, self.attempts, self.backoff = server.rstrip("/"), chunk, attempts, backoff
        self.connections, self.timeout = connections, timeout
        self.queue = Path(queue_dir)
        self.queue.mkdir(parents=True, exist_ok=True)
        self._headers = {"Tus-Resumable": TUS, "Authorization": f"Bearer {token}"}

    def enqueue(self, path: Path | str) -> str:
        """Move a file into the queue (whole or not at all); returns its SHA-256."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        queued = self.queue / f"{sha}.mcap"
        try:
            os.replace(path, queued)
        except OSError:  # another file system: copy aside, then rename
            aside = queued.with_suffix(".part")
            shutil.copyfile(path, aside)
            os.replace(aside, queued)
            path.unlink()
        return sha

    def send_all(self, paths: Sequence[Path | str] = ()) -> list[Receipt]:
        """Enqueue paths, then send all that is queued, also from earlier lives; receipts in order of name.

        A file that the service refuses for good moves to the folder 'refused' with the reason beside it. ValueError,
        once all files have had their turn, if the token or a file was refused or the service cannot be reached.
        """
        for path in paths:
            self.enqueue(path)
        for path in self.queue.glob("*.mcap"):
            if len(path.stem) != 64:
                self.enqueue(path)
        files = sorted(self.queue.glob("*.mcap"))
        with self._client() as client, ThreadPoolExecutor(self.connections, thread_name_prefix="upload") as threads:
            down = threading.Event()
            outcomes = list(threads.map(lambda file: self._send(client, file, down), files))
        faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if faults:
            raise ValueError(f"{faults[0]} ({len(faults)} of {len(files)} clips not sent)")
        return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]

    def _client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        # Reading the machine's certificates takes longer than sending a clip: only where the link is encrypted.
        verify = ssl.create_default_context() if self.server.startswith("https:") else False
        return httpx.Client(
            base_url=self.server, headers=self._headers, timeout=self.timeout, limits=limits, verify=verify
        )

    def _send(self, client: httpx.Client, file: Path, down: threading.Event) -> Receipt | str:
        """One queued file to its receipt, or to the line that says why not; sets down when it gives up."""
        size, sent, failed, why = file.stat().st_size, 0, 0, ""
        # When the service has been away for all attempts of one file, the others try once.
        while failed < (1 if down.is_set() else self.attempts):
            if failed:
                time.sleep(random.uniform(0, min(60.0, self.backoff * 2 ** (failed - 1))))
            before = sent
            try:
                location, offset, done = self._begin(client, file, size)
                while not done:
                    count, offset, done = self._piece(client, file, location, offset)
                    sent += count
                file.unlink(missing_ok=True)
                return Receipt(file.stem, size, sent)
            except (_Later, httpx.TransportError) as error:
                why = str(error) or type(error).__name__
            except ValueError as error:
                return str(error)
            failed = 1 if sent > before else failed + 1
        down.set()
        return f"{self.server}: gave up after {failed} attempts ({why}); clips wait in {self.queue}"

    def _begin(self, client: httpx.Client, file: Path, size: int) -> tuple[str, int, bool]:
        """Where to send the file, from which byte, and whether the service has it already."""
        sha = base64.b64encode(file.stem.encode()).decode()
        name = base64.b64encode(file.name.encode()).decode()
        headers = {"Upload-Length": str(size), "Upload-Metadata": f"sha256 {sha},filename {name}"}
        answer = self._checked(client.post("/uploads", headers=headers), file, 201)
        location = answer.headers["Location"]
        if "Upload-Offset" not in answer.headers:
            answer = self._checked(client.head(location), file, 200)
        return location, int(answer.headers["Upload-Offset"]), answer.headers.get("Clip-Sha256") == file.stem

    def _piece(self, client: httpx.Client, file: Path, location: str, offset: int) -> tuple[int, int, bool]:
        """Send one piece; returns its bytes, the new offset, and whether the service has acknowledged the whole."""
        with file.open("rb") as source:
            source.seek(offset)
            piece = source.read(self.chunk)
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        answer = self._checked(client.patch(location, content=piece, headers=headers), file, 204)
        return len(piece), int(answer.headers["Upload-Offset"]), answer.headers.get("Clip-Sha256") == file.stem

    def _checked(self, answer: httpx.Response, file: Path, wanted: int) -> httpx.Response:
        """The answer if it has the wanted status; else _Later, or ValueError with the service's own words."""
        if answer.status_code == wanted:
            return answer
        line = f"{self.server}: {answer.status_code} {answer.text.strip().splitlines()[0] if answer.text else ''}"
        if answer.status_code in AGAIN or answer.status_code == 404:  # 404: the upload is gone, begin anew
            raise _Later(line)
        if answer.status_code in REFUSED:
            refused = self.queue / "refused"
            refused.mkdir(exist_ok=True)
            (refused / f"{file.stem}.txt").write_text(line + "\n")
            os.replace(file, refused / file.name)
        raise ValueError(f"{line}; clip {file.stem[:12]}")
