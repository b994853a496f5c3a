"""Resumable upload (tus 1.0) of clip files to the ingest service, verified by SHA-256.

A clip leaves the queue (`outbox`) only when the service has acknowledged its hash; there is no other state, so a crash
costs at most the bytes of the current request. Clips are streamed, never held in memory.

Proxies and captive portals respond too: only responses with the service's own `Tus-Resumable` decide about a clip, and
their headers are checked before use. Anything else means: try again later.
"""

from __future__ import annotations

import base64
import json
import queue
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from drivefoundry_car.upload.endpoint import TUS, checked, first_line, from_service, read_answer
from drivefoundry_car.upload.link import Link
from drivefoundry_car.upload.outbox import MOST_BYTES, Note, Outbox, Queued

__all__ = ["Note", "Receipt", "UploadLimits", "Uploader"]
STOP = {400, 401, 403, 405, 412, 415}
"""Statuses of the service that a retry does not change: the token or the protocol is at fault; the clip waits."""
REFUSED = {403, 413, 422}
"""Statuses of the service that mean it will never accept this file: another vehicle's, too large, not a drive."""
_NUMBER, _PLACE = re.compile(r"[0-9]{1,18}"), re.compile(r"/[!-~]{0,2000}")
PIECE = 1 << 20
"""Bytes between checks of the link."""
ASKED = 500
"""Hashes per query to the service."""
ANSWER = 1 << 20
"""Most bytes of a response that are read."""
PATIENCE_S = 60.0
"""Longest wait before a retry, s; a longer Retry-After is left to the next `send_all`."""


@dataclass(frozen=True)
class Receipt:
    """The service has this file: SHA-256 (= clip id), size, and bytes sent for it now (0: it was already there)."""

    sha256: str
    size: int
    sent: int


class _Later(Exception):
    """A transient failure; retry after at least `seconds`."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class _Closed(Exception):
    """The link's window has closed, or the daily budget is used up."""


@dataclass(frozen=True)
class _Answer:
    """Status, headers by lower-case name, body text, and whether it came from the service itself."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def own(self) -> bool:
        return from_service(self.headers)

    def offset(self, most: int) -> int:
        """Upload-Offset. _Later if it is missing or not a valid offset into the clip."""
        text = self.headers.get("upload-offset", "")
        if not _NUMBER.fullmatch(text) or int(text) > most:
            raise _Later(f"Upload-Offset '{first_line(text)}' for a clip of {most} bytes")
        return int(text)

    def acknowledges(self, clip: Queued) -> bool:
        """Whether the response acknowledges that this clip is stored durably."""
        return self.own and self.headers.get("clip-sha256") == clip.sha256


@dataclass(frozen=True)
class UploadLimits:
    """How much an uploader sends at once, how long it tries, and how much its queue keeps (`Outbox`)."""

    chunk: int = 16 << 20
    """Most bytes per request."""
    connections: int = 2
    """Files sent concurrently."""
    timeout: float = 60.0
    """s without a byte."""
    attempts: int = 8
    """Consecutive failures after which a file waits for the next `send_all`."""
    backoff: float = 0.25
    """s before the second attempt, doubled each time up to a minute, with full jitter."""
    bytes_per_day: int | None = None
    """Budget of all campaigns together."""
    most_bytes: int = MOST_BYTES


class Uploader:
    """A durable queue folder in front of one ingest service. Several uploaders may share the queue.

    server: its URL; token: the vehicle's, or a function that returns one other than a stale one (`enrol.Credential`);
    link: time windows and rate; clock: s since 1970, which also defines the budgets' days; insecure_http: see
    `endpoint.checked`; changes: limits by name.
    """

    def __init__(
        self,
        server: str,
        token: str | Callable[[str], str],
        queue_dir: Path | str,
        limits: UploadLimits | None = None,
        *,
        link: Link | None = None,
        clock: Callable[[], float] = time.time,
        insecure_http: bool = False,
        **changes: Any,
    ) -> None:
        self.server, self.link = checked(server, insecure_http), link or Link()
        self.limits = replace(limits or UploadLimits(), **changes)
        self.outbox = Outbox(queue_dir, self.limits.bytes_per_day, clock, self.limits.most_bytes)
        self.queue = self.outbox.folder
        self._base = urlsplit(self.server).path
        self._renew = token if callable(token) else None
        self._token = "" if callable(token) else token
        self._renewing, self._counting = threading.Lock(), threading.Lock()
        self.sent = 0
        """Number of clips that the service has acknowledged."""

    def enqueue(self, path: Path | str, note: Note | None = None) -> str:
        """Move a file into the queue atomically; return its SHA-256."""
        return self.outbox.put(path, note)

    def send_all(self, paths: Sequence[Path | str] = (), until: threading.Event | None = None) -> list[Receipt]:
        """Enqueue paths, then send everything queued, also from earlier processes, most valuable first.

        Returns receipts for what the service has now. Clips held back by a closed window, a used-up budget or another
        uploader silently stay queued. A file that the service refuses for good moves to the folder 'refused' with the
        reason. Once `until` is set, no further clip is started. ValueError, after all files have been tried, if the
        token or a file was refused or the service is unreachable.
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
        down, many = threading.Event(), min(self.limits.connections, line.qsize())
        with ThreadPoolExecutor(max(1, many), thread_name_prefix="upload") as threads:
            for outcomes in threads.map(lambda _: self._drain(line, down, until), range(many)):
                receipts += [o for o in outcomes if isinstance(o, Receipt)]
                faults += [o for o in outcomes if isinstance(o, str)]
        if faults:
            raise ValueError(f"{faults[0]} ({len(faults)} of {len(clips)} clips not sent)")
        return receipts

    def connect(self) -> HTTPConnection:
        """A connection to the service, not opened yet."""
        at = urlsplit(self.server)
        if at.scheme == "https":  # loading the machine's certificates takes longer than sending a clip
            context = ssl.create_default_context()
            return HTTPSConnection(at.hostname or "", at.port, timeout=self.limits.timeout, context=context)
        return HTTPConnection(at.hostname or "", at.port, timeout=self.limits.timeout)

    def _already_there(self, clips: list[Queued]) -> list[Receipt]:
        """Ask the service which clips it already has; these leave the queue. Best effort: errors are ignored."""
        receipts: list[Receipt] = []
        if len(clips) == 1:  # starting it asks the same
            return receipts
        connection = self.connect()
        try:
            for i in range(0, len(clips), ASKED):
                some = clips[i : i + ASKED]
                body = json.dumps({"sha256": [clip.sha256 for clip in some]}).encode()
                answer = self._authorised(
                    connection, "POST", f"{self._base}/have", {"Content-Type": "application/json"}, body
                )
                have = _have(answer)
                for clip in some:
                    with self.outbox.held(clip) as file:
                        if file is not None and clip.sha256 in have:
                            receipts.append(self._acknowledged(clip, 0))
        except (OSError, HTTPException, ValueError):
            pass  # any problem will show, and be reported, when the first clip is started
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
        """Send clips over one connection until the queue is empty."""
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
        """Send one clip; return its receipt, a line that says why it failed, or None if it has to wait. Sets `down`
        when it gives up."""
        if self.outbox.spent(clip.note):
            return None
        sent, failed, reached, why, wait = 0, 0, 0, "", 0.0
        # If the service was unreachable for all attempts of one file, the others try only once.
        while failed < (1 if down.is_set() else self.limits.attempts):
            if failed:
                time.sleep(max(wait, random.uniform(0, min(PATIENCE_S, self.limits.backoff * 2 ** (failed - 1)))))
            before, wait = reached, 0.0
            try:
                location, offset, done = self._begin(connection, clip)
                reached = max(reached, offset)
                while not done:
                    count, offset, done = self._piece(connection, clip, file, location, offset)
                    sent, reached = sent + count, max(reached, offset)
                return self._acknowledged(clip, sent)
            except _Closed:
                connection.close()
                return None
            except (_Later, OSError, HTTPException) as error:
                connection.close()
                why = first_line(str(error)) or type(error).__name__
                wait = error.seconds if isinstance(error, _Later) else 0.0
                if wait > PATIENCE_S:
                    return f"{why}; clips wait in {self.queue}"
            except ValueError as error:
                connection.close()
                return str(error)
            failed = 1 if reached > before else failed + 1  # an attempt that made progress does not count as a failure
        down.set()
        return f"{self.server}: gave up after {failed} attempts ({why}); clips wait in {self.queue}"

    def _begin(self, connection: HTTPConnection, clip: Queued) -> tuple[str, int, bool]:
        """Start an upload: location, offset, and whether the service already has the clip."""
        sha, name = (base64.b64encode(text.encode()).decode() for text in (clip.sha256, clip.file.name))
        headers = {"Upload-Length": str(clip.size), "Upload-Metadata": f"sha256 {sha},filename {name}"}
        answer = self._checked(self._authorised(connection, "POST", f"{self._base}/uploads", headers), clip, 201)
        location = _place(answer)
        if "upload-offset" not in answer.headers:
            answer = self._checked(self._authorised(connection, "HEAD", location, {}), clip, 200)
        return location, answer.offset(clip.size), answer.acknowledges(clip)

    def _piece(
        self, connection: HTTPConnection, clip: Queued, file: IO[bytes], location: str, offset: int
    ) -> tuple[int, int, bool]:
        """Send one request's bytes; return their number, the new offset, and whether the clip is acknowledged."""
        count = self.outbox.grant(clip.note, min(self.limits.chunk, clip.size - offset))
        if not count and offset < clip.size:
            raise _Closed
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        body = _Body(file, offset, count, self.link)
        try:
            answer = self._authorised(connection, "PATCH", location, headers, body)
        finally:
            self.outbox.refund(clip.note, count - body.sent)
        answer = self._checked(answer, clip, 204)
        reached, done = answer.offset(clip.size), answer.acknowledges(clip)
        if not done and (reached != offset + count or not count):
            raise _Later(f"{reached} bytes arrived of {offset + count} sent, and the clip is not acknowledged")
        return count, reached, done

    def _authorised(
        self, connection: HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | _Body = b""
    ) -> _Answer:
        """Send a request with the vehicle's token, and again with a new one if the token is refused."""
        token = self._token or self._other_than("")
        answer = _ask(connection, method, path, {**headers, "Authorization": f"Bearer {token}"}, body)
        for _ in range(2):  # the first new token may be one that another process fetched, and stale as well
            if answer.status == 401 and answer.own and self._renew is not None:
                token = self._other_than(token)
                answer = _ask(connection, method, path, {**headers, "Authorization": f"Bearer {token}"}, body)
        return answer

    def _other_than(self, stale: str) -> str:
        assert self._renew is not None
        with self._renewing:
            if self._token == stale:
                self._token = self._renew(stale)
            return self._token

    def _checked(self, answer: _Answer, clip: Queued, expected: int) -> _Answer:
        """Return the response if it is the service's and has the expected status; else _Later, or ValueError with the
        service's message."""
        if answer.own and answer.status == expected:
            return answer
        line = f"{self.server}: {answer.status} {first_line(answer.text)}".rstrip()
        after = answer.headers.get("retry-after", "")
        later = _Later(line, float(after) if _NUMBER.fullmatch(after) else 0.0)
        if not answer.own:
            raise _Later(f"{line} (not from the ingest service: is there a proxy or portal?)", later.seconds)
        scope = "www-authenticate" in answer.headers
        if answer.status in REFUSED and not scope and _is_line(answer):
            self.outbox.refuse(clip, line)
        elif answer.status not in STOP:
            raise later
        raise ValueError(f"{line}; clip {clip.sha256[:12]}")


def _place(answer: _Answer) -> str:
    """Path of an upload on this server, since the token goes nowhere else. _Later if there is none."""
    try:
        path = urlsplit(answer.headers.get("location", "")).path
    except ValueError:
        path = ""
    if not _PLACE.fullmatch(path) or path.startswith("//"):
        raise _Later(f"Location '{first_line(answer.headers.get('location', ''))}' is not the location of an upload")
    return path


def _have(answer: _Answer) -> set[str]:
    """Clips that the service has, according to its response to /have; none if the response is not its own."""
    if answer.status != 200 or not answer.own:
        return set()
    try:
        told = json.loads(answer.text)
    except (ValueError, RecursionError):
        return set()
    have = told.get("have") if isinstance(told, dict) else None
    return {sha for sha in have if isinstance(sha, str)} if isinstance(have, list) else set()


def _is_line(answer: _Answer) -> bool:
    """Whether a refusal has the service's form: one line of plain text."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "text/plain" and len(answer.text.strip().splitlines()) == 1


class _Body:
    """Part of a file, sent at the link's rate. sent: bytes sent so far."""

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
                raise ValueError(f"{self.file.name}: the file has shrunk; record it again")
            self.sent += gone


def _ask(connection: HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | _Body) -> _Answer:
    """Send a request and read its response. OSError or HTTPException if the connection breaks."""
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in ({"Tus-Resumable": TUS, "Content-Length": str(len(body))} | headers).items():
        connection.putheader(name, value)
    connection.endheaders(body if isinstance(body, bytes) and body else None)
    broken = False
    if isinstance(body, _Body):
        try:
            body.send(connection)
        except OSError:
            connection.sock.settimeout(1.0)  # a refusal may have arrived before the connection broke
            broken = True
    answer = connection.getresponse()
    text = read_answer(answer, ANSWER, connection.timeout or 60.0).decode(errors="replace")
    if broken or not answer.isclosed():
        connection.close()
    return _Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
