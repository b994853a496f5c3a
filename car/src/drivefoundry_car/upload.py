"""Clip files in, receipts from the ingest service out: resumable (tus 1.0), verified by SHA-256.

A clip leaves the queue (`outbox`) only when the service has acknowledged its very hash; nothing else is remembered, so
a kill at any moment costs at most the bytes of the request under way. Clips are streamed, never held in memory.
"""

from __future__ import annotations

import base64
import json
import queue
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from drivefoundry_car.link import Link
from drivefoundry_car.outbox import Note, Outbox, Queued

__all__ = ["Note", "Receipt", "Uploader"]
TUS = "1.0.0"
AGAIN = {404, 408, 409, 423, 425, 429, 460, 500, 502, 503, 504, 507}
"""Statuses after which the same file may yet get through; 404: the upload is gone, begin anew."""
REFUSED = {403, 413, 422}
"""Statuses that say that the service will never take this file: another vehicle's, too large, no drive."""
PIECE = 1 << 20
"""Bytes between two looks at the link."""
ASKED = 500
"""Hashes that the service is asked for at once."""
PATIENCE_S = 60.0
"""Longest wait for another attempt; who is told to wait longer leaves it to the next `send_all`."""


@dataclass(frozen=True)
class Receipt:
    """The service has this file: its SHA-256 (= clip id), size, and the bytes sent for it now (0: it was there)."""

    sha256: str
    size: int
    sent: int


class _Later(Exception):
    """An attempt that failed for a reason that may pass, not before so many seconds."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class _Closed(Exception):
    """The link's window has closed, or the day's budget is spent."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    text: str


class Uploader:
    """A durable queue folder in front of one ingest service. Several may share the queue.

    server: its URL; token: the vehicle's, or what gives one other than a stale one (`enrol.Credential`); chunk: most
    bytes a request; link: when, how fast; bytes_per_day: of all campaigns together; attempts: failures in a row after
    which a file waits for the next `send_all`; backoff: s before the second attempt, doubled each time up to a minute,
    with full jitter; connections: files sent at once; timeout: s without a byte; clock: s since 1970, whose days end
    the budgets'.
    """

    def __init__(
        self,
        server: str,
        token: str | Callable[[str], str],
        queue_dir: Path | str,
        chunk: int = 16 << 20,
        *,
        link: Link | None = None,
        bytes_per_day: int | None = None,
        attempts: int = 8,
        backoff: float = 0.25,
        connections: int = 2,
        timeout: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.server, self.chunk, self.attempts, self.backoff = server.rstrip("/"), chunk, attempts, backoff
        self.connections, self.timeout, self.link = connections, timeout, link or Link()
        self.outbox = Outbox(queue_dir, bytes_per_day, clock)
        self.queue = self.outbox.folder
        self._base = urlsplit(self.server).path
        self._renew = token if callable(token) else None
        self._token = "" if callable(token) else token
        self._renewing, self._counting = threading.Lock(), threading.Lock()
        self.sent = 0
        """Clips that the service has acknowledged."""

    def enqueue(self, path: Path | str, note: Note | None = None) -> str:
        """Move a file into the queue (whole or not at all); returns its SHA-256."""
        return self.outbox.put(path, note)

    def send_all(self, paths: Sequence[Path | str] = (), until: threading.Event | None = None) -> list[Receipt]:
        """Enqueue paths, then send all that is queued, also from earlier lives, the most valuable first.

        Receipts of what the service has now. What a closed window, a spent budget or another uploader at work keeps
        back stays queued without a word. A file that the service refuses for good moves to the folder 'refused' with
        the reason beside it. Where until is set meanwhile, what has not begun waits. ValueError, once all files have
        had their turn, if the token or a file was refused or the service cannot be reached.
        """
        for path in paths:
            self.enqueue(path)
        if not self.link.rate() or not (clips := self.outbox.waiting()):
            return []
        line: queue.SimpleQueue[Queued] = queue.SimpleQueue()
        receipts = self._already_there(clips)
        faults: list[str] = []
        there = {r.sha256 for r in receipts}
        for clip in clips:
            if clip.sha256 not in there:
                line.put(clip)
        down, many = threading.Event(), min(self.connections, line.qsize())
        with ThreadPoolExecutor(max(1, many), thread_name_prefix="upload") as threads:
            for outcomes in threads.map(lambda _: self._drain(line, down, until), range(many)):
                receipts += [o for o in outcomes if isinstance(o, Receipt)]
                faults += [o for o in outcomes if isinstance(o, str)]
        if faults:
            raise ValueError(f"{faults[0]} ({len(faults)} of {len(clips)} clips not sent)")
        return receipts

    def connect(self) -> HTTPConnection:
        """A connection to the service, not yet open."""
        at = urlsplit(self.server)
        if at.scheme == "https":  # reading the machine's certificates takes longer than sending a clip
            context = ssl.create_default_context()
            return HTTPSConnection(at.hostname or "", at.port, timeout=self.timeout, context=context)
        return HTTPConnection(at.hostname or "", at.port, timeout=self.timeout)

    def _already_there(self, clips: list[Queued]) -> list[Receipt]:
        """What the service has of several clips, before any is begun; these leave the queue. No answer is no harm."""
        receipts: list[Receipt] = []
        if len(clips) == 1:  # beginning it asks the same
            return receipts
        connection = self.connect()
        try:
            for i in range(0, len(clips), ASKED):
                some = clips[i : i + ASKED]
                body = json.dumps({"sha256": [clip.sha256 for clip in some]}).encode()
                answer = self._authorised(
                    connection, "POST", f"{self._base}/have", {"Content-Type": "application/json"}, body
                )
                have = set(json.loads(answer.text)["have"]) if answer.status == 200 else set()
                for clip in some:
                    with self.outbox.held(clip) as file:
                        if file is not None and clip.sha256 in have:
                            receipts.append(self._acknowledged(clip, 0))
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            pass  # whatever is wrong will be met, and told, when the first clip is begun
        finally:
            connection.close()
        return receipts

    def _acknowledged(self, clip: Queued, sent: int) -> Receipt:
        self.outbox.remove(clip)
        with self._counting:
            self.sent += 1
        return Receipt(clip.sha256, clip.size, sent)

    def _drain(
        self, line: queue.SimpleQueue[Queued], down: threading.Event, until: threading.Event | None
    ) -> list[Receipt | str | None]:
        """Send clips over one connection until none is left."""
        outcomes: list[Receipt | str | None] = []
        connection = self.connect()
        try:
            while until is None or not until.is_set():
                clip = line.get_nowait()
                with self.outbox.held(clip) as file:
                    if file is not None:
                        outcomes.append(self._send(connection, clip, file, down))
        except queue.Empty:
            pass
        finally:
            connection.close()
        return outcomes

    def _send(
        self, connection: HTTPConnection, clip: Queued, file: IO[bytes], down: threading.Event
    ) -> Receipt | str | None:
        """One clip to its receipt, to the line that says why not, or to None where it has to wait; sets down when it
        gives up."""
        if self.outbox.spent(clip.note):
            return None
        sent, failed, why, wait = 0, 0, "", 0.0
        # When the service has been away for all attempts of one file, the others try once.
        while failed < (1 if down.is_set() else self.attempts):
            if failed:
                time.sleep(max(wait, random.uniform(0, min(PATIENCE_S, self.backoff * 2 ** (failed - 1)))))
            before, wait = sent, 0.0
            try:
                location, offset, done = self._begin(connection, clip)
                while not done:
                    count, offset, done = self._piece(connection, clip, file, location, offset)
                    sent += count
                return self._acknowledged(clip, sent)
            except _Closed:
                connection.close()
                return None
            except (_Later, OSError, HTTPException) as error:
                connection.close()
                why = " ".join(str(error).split()) or type(error).__name__
                wait = error.seconds if isinstance(error, _Later) else 0.0
                if wait > PATIENCE_S:
                    return f"{why}; clips wait in {self.queue}"
            except ValueError as error:
                connection.close()
                return str(error)
            failed = 1 if sent > before else failed + 1
        down.set()
        return f"{self.server}: gave up after {failed} attempts ({why}); clips wait in {self.queue}"

    def _begin(self, connection: HTTPConnection, clip: Queued) -> tuple[str, int, bool]:
        """Where to send the clip, from which byte, and whether the service has it already."""
        sha, name = (base64.b64encode(text.encode()).decode() for text in (clip.sha256, clip.file.name))
        headers = {"Upload-Length": str(clip.size), "Upload-Metadata": f"sha256 {sha},filename {name}"}
        answer = self._checked(self._authorised(connection, "POST", f"{self._base}/uploads", headers), clip, 201)
        location = urlsplit(answer.headers["location"]).path  # of this server: nobody else is sent the token
        if "upload-offset" not in answer.headers:
            answer = self._checked(self._authorised(connection, "HEAD", location, {}), clip, 200)
        return location, int(answer.headers["upload-offset"]), answer.headers.get("clip-sha256") == clip.sha256

    def _piece(
        self, connection: HTTPConnection, clip: Queued, file: IO[bytes], location: str, offset: int
    ) -> tuple[int, int, bool]:
        """Send one request's bytes; their number, the new offset, and whether the service has acknowledged it all."""
        count = self.outbox.grant(clip.note, min(self.chunk, clip.size - offset))
        if not count and offset < clip.size:
            raise _Closed
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        body = _Body(file, offset, count, self.link)
        try:
            answer = self._authorised(connection, "PATCH", location, headers, body)
        finally:
            self.outbox.refund(clip.note, count - body.sent)
        answer = self._checked(answer, clip, 204)
        return count, int(answer.headers["upload-offset"]), answer.headers.get("clip-sha256") == clip.sha256

    def _authorised(
        self, connection: HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | _Body = b""
    ) -> _Answer:
        """A request with the vehicle's token; once more with a new one if the service refuses that."""
        token = self._token or self._other_than("")
        answer = _ask(connection, method, path, {**headers, "Authorization": f"Bearer {token}"}, body)
        for _ in range(2):  # the first may be one that another process has fetched, and be stale as well
            if answer.status == 401 and self._renew is not None:
                token = self._other_than(token)
                answer = _ask(connection, method, path, {**headers, "Authorization": f"Bearer {token}"}, body)
        return answer

    def _other_than(self, stale: str) -> str:
        assert self._renew is not None
        with self._renewing:
            if self._token == stale:
                self._token = self._renew(stale)
            return self._token

    def _checked(self, answer: _Answer, clip: Queued, wanted: int) -> _Answer:
        """The answer if it has the wanted status; else _Later, or ValueError with the service's own words."""
        if answer.status == wanted:
            return answer
        line = f"{self.server}: {answer.status} {answer.text.strip().splitlines()[0] if answer.text.strip() else ''}"
        if answer.status in AGAIN:
            after = answer.headers.get("retry-after", "")
            raise _Later(line, float(after) if after.isdecimal() else 0.0)
        if answer.status in REFUSED and "www-authenticate" not in answer.headers:
            self.outbox.refuse(clip, line)
        raise ValueError(f"{line}; clip {clip.sha256[:12]}")


class _Body:
    """Part of a file, sent as fast as the link may carry it. sent: bytes that have gone out."""

    def __init__(self, file: IO[bytes], begin: int, count: int, link: Link) -> None:
        self.file, self.begin, self.count, self.link, self.sent = file, begin, count, link, 0

    def __len__(self) -> int:
        return self.count

    def send(self, connection: HTTPConnection) -> None:
        self.sent = 0
        while self.sent < self.count:
            some = self.link.pass_on(min(PIECE, self.count - self.sent))
            if not some:
                raise _Closed
            gone = connection.sock.sendfile(self.file, self.begin + self.sent, some)
            if not gone:
                raise ValueError(f"{self.file.name}: shorter than it was; record it again")
            self.sent += gone


def _ask(connection: HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | _Body) -> _Answer:
    """One request and its answer. OSError or HTTPException if the link breaks."""
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in ({"Tus-Resumable": TUS, "Content-Length": str(len(body))} | headers).items():
        connection.putheader(name, value)
    connection.endheaders(body if isinstance(body, bytes) and body else None)
    broken = False
    if isinstance(body, _Body):
        try:
            body.send(connection)
        except OSError:
            connection.sock.settimeout(1.0)  # a refusal may have come before the link broke
            broken = True
    answer = connection.getresponse()
    text = answer.read(1 << 20).decode(errors="replace")
    if broken:
        connection.close()
    return _Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
