"""HTTP service for uploads: tus 1.0 (core, creation) with a token per vehicle and a SHA-256 per file.

`contract` and /openapi.json describe what each route answers. The header Clip-Sha256 acknowledges that the file with
this hash is stored durably. A vehicle sees only its own uploads and clips; to it, others' do not exist.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import re
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drivefoundry.clips.prepared import WrongHash, WrongVehicle
from drivefoundry.ingest.access.accounts import Accounts, Refused, document
from drivefoundry.ingest.contract import ROUTES, SECURITY, TUS
from drivefoundry.ingest.landing import Landing, public, readable
from drivefoundry.ingest.metrics import CONTENT_TYPE, Metrics
from drivefoundry.ingest.turns import Penalties, Readers, Turns
from drivefoundry.ingest.uploads import Upload, Uploads

CHECKS = 2
"""Clips checked concurrently: CPU work, off the event loop."""
READERS = 2
"""Fast senders read concurrently."""
SLOWEST = 4096
"""Bytes that a request must bring per silence interval, or it loses its upload."""
HASHES = 1000
"""Most hashes per query."""
_SPOILT = (errno.EIO, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EBADMSG)
"""Errors that may concern one file rather than the disk."""
_SHA = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
COUNTERS = {
    "requests_total": ("Requests by route and status.", ("route", "status")),
    "received_bytes_total": ("Bytes of clips received, including interrupted requests.", ()),
    "acknowledged_total": ("Clips checked, stored and acknowledged.", ()),
    "refused_total": ("Uploads whose bytes were refused, by reason.", ("reason",)),
    "put_off_total": ("Checks delayed because the vehicle's last clips were refused.", ()),
    "check_seconds_total": ("Time spent checking clips.", ()),
    "dropped_total": ("Connections closed or refused, by reason.", ("reason",)),
}


def make_app(
    landing: Landing, accounts: Accounts, uploads: Uploads, metrics: Metrics, silence_s: float = 30.0
) -> FastAPI:
    """Build the service for one landing; `uploads` holds unfinished uploads. silence_s: see `access.Access`."""
    app = FastAPI(title="drivefoundry ingest", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    service = _Service(landing, accounts, uploads, metrics)
    service.silence_s = silence_s
    for method, path, handler, status in (
        ("GET", "/health", service.health, 200),
        ("GET", "/metrics", service.metrics_text, 200),
        ("POST", "/enrol", accounts.enrol, 200),
        ("POST", "/token", accounts.token, 200),
        ("GET", "/status", service.status, 200),
        ("POST", "/have", service.have, 200),
        ("OPTIONS", "/uploads", service.options, 204),
        ("POST", "/uploads", service.create, 201),
        ("HEAD", "/uploads/{name}", service.head, 200),
        ("PATCH", "/uploads/{name}", service.patch, 204),
    ):
        about = ROUTES[handler.__name__.removesuffix("_text")]
        app.add_api_route(path, handler, methods=[method], status_code=status, response_class=Response, **about)

    @app.exception_handler(Refused)
    async def refuse(_: Request, error: Refused) -> Response:
        return PlainTextResponse(str(error), error.status, {"Tus-Resumable": TUS, **error.headers})

    @app.exception_handler(sqlite3.DatabaseError)
    async def no_table(_: Request, error: sqlite3.DatabaseError) -> Response:
        accounts.vehicles.suspect()
        full = isinstance(error, sqlite3.OperationalError)
        line = f"the table of vehicles cannot be {'written' if full else 'read'} ({error}); try again later"
        _log.error(line)
        return PlainTextResponse(line, 507 if full else 503, {"Tus-Resumable": TUS, "Retry-After": "60"})

    @app.exception_handler(OSError)
    async def no_room(_: Request, error: OSError) -> Response:
        _log.error("a request failed: %s", error)
        return PlainTextResponse(str(_full(error)), 507, {"Tus-Resumable": TUS})

    plain = app.openapi

    def described() -> dict[str, Any]:
        text = plain()
        text.setdefault("components", {})["securitySchemes"] = SECURITY
        return text

    app.openapi = described
    app.add_middleware(_Counted, metrics=metrics)
    return app


class _Counted:
    """ASGI middleware: counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.add("requests_total", route=route, status=str(message["status"]))
            await send(message)

        await self.app(scope, receive, counted)


class _Service:
    """The clip routes and their shared state; everything but the checks runs on the event loop."""

    def __init__(self, landing: Landing, accounts: Accounts, uploads: Uploads, metrics: Metrics) -> None:
        self.landing, self.accounts, self.uploads, self.metrics = landing, accounts, uploads, metrics
        self.busy: set[str] = set()
        self.sending: Counter[str] = Counter()
        self.checks = ThreadPoolExecutor(CHECKS, thread_name_prefix="check")
        self.turns = Turns(2 * CHECKS)  # twice as many, so that checkers never idle between two clips
        self.readers = Readers(READERS)
        self.penalties = Penalties()
        self.silence_s = 30.0

    async def health(self) -> Response:
        counts = self.landing.counts()
        trouble = self.accounts.vehicles.trouble() or self.landing.trouble
        return JSONResponse({"status": trouble or "ok", **counts}, 503 if trouble else 200)

    async def status(self, request: Request) -> Response:
        vehicle = self.accounts.vehicle(request, "status")
        spent, day = self.accounts.vehicles.spent(vehicle), self.accounts.limits.day
        left = None if day is None else max(0, day - spent)
        about = {"vehicle": vehicle, "bytes_today": spent, "bytes_left": left}
        about["resets_in_s"] = self.accounts.vehicles.tomorrow_in()
        return JSONResponse({**about, "lost": self.landing.lost(vehicle)[:HASHES]})

    async def metrics_text(self) -> Response:
        counts = self.landing.counts() | {"set_aside": self.landing.set_aside}
        gauges = {
            "landed": ("Clips in the table.", counts["landed"]),
            "waiting": ("Clips acknowledged, not yet in the table.", counts["waiting"]),
            "unfinished": ("Unfinished uploads.", len(self.uploads)),
            "receiving": ("Requests that are appending to an upload now.", len(self.busy)),
            "checks_waiting": ("Complete uploads waiting to be checked.", len(self.turns)),
            "set_aside": ("Files set aside because they were unreadable or damaged.", counts["set_aside"]),
        }
        return Response(self.metrics.text(gauges), media_type=CONTENT_TYPE)

    async def options(self) -> Response:
        size = str(self.accounts.limits.clip)
        extensions = {"Tus-Version": TUS, "Tus-Extension": "creation", "Tus-Max-Size": size}
        return Response(status_code=204, headers={"Tus-Resumable": TUS, **extensions})

    async def have(self, request: Request) -> Response:
        vehicle = self.accounts.vehicle(request, "upload")
        asked = (await document(request)).get("sha256")
        if not isinstance(asked, list) or not all(isinstance(s, str) and _SHA.fullmatch(s) for s in asked):
            raise Refused(400, "sha256: must be a list of hashes of 64 hex digits")
        if len(asked) > HASHES:
            raise Refused(413, f"sha256: {len(asked)} hashes exceed the limit of {HASHES} per query")
        have = [sha for sha in dict.fromkeys(asked) if self.landing.has(sha, vehicle)]
        return JSONResponse(
            {"have": have}, headers={"Tus-Resumable": TUS}
        )  # a car ignores responses without it: they are a proxy's

    async def create(self, request: Request) -> Response:
        vehicle = self._vehicle(request)
        length, most = _number(request, "Upload-Length"), self.accounts.limits.clip
        sha = _metadata(request.headers.get("Upload-Metadata", "")).get("sha256", "")
        if not _SHA.fullmatch(sha):
            raise Refused(400, "Upload-Metadata: sha256 of the file is missing; send it as 64 hex digits in base64")
        if length > most:
            raise Refused(413, f"Upload-Length: {length} bytes exceed the limit of {most}; cut the clip")
        name = self.uploads.name(vehicle, sha, length)
        headers = {"Tus-Resumable": TUS, "Location": f"{request.scope.get('root_path', '')}/uploads/{name}"}
        if self.landing.has(sha, vehicle):
            left = self.uploads.get(name, vehicle)
            if left is not None and name not in self.busy:  # it had landed before the service was killed
                self.uploads.forget(left)
            return Response(status_code=201, headers={**headers, "Upload-Offset": str(length), "Clip-Sha256": sha})
        self.accounts.left(vehicle)
        try:
            upload = self.uploads.create(vehicle, sha, length, self.busy)
        except OSError as error:
            raise _full(error) from error
        if upload is None:
            raise Refused(429, "too many uploads are unfinished; finish some first", {"Retry-After": "60"})
        return Response(status_code=201, headers={**headers, "Upload-Offset": str(self.uploads.offset(upload))})

    async def head(self, name: str, request: Request) -> Response:
        upload = self._own(name, self._vehicle(request))
        size = {"Upload-Offset": str(self.uploads.offset(upload)), "Upload-Length": str(upload.length)}
        return Response(status_code=200, headers={"Tus-Resumable": TUS, "Cache-Control": "no-store", **size})

    async def patch(self, name: str, request: Request) -> Response:
        vehicle = self._vehicle(request)
        if request.headers.get("Content-Type") != "application/offset+octet-stream":
            raise Refused(415, "Content-Type: must be application/offset+octet-stream")
        began = _number(request, "Upload-Offset")
        upload = self._own(name, vehicle)
        if name in self.busy:
            raise Refused(423, "another request is appending to this upload; try again later")
        if self.sending[vehicle] >= self.accounts.limits.sending:
            raise Refused(
                429, f"{self.sending[vehicle]} requests of this vehicle are in progress", {"Retry-After": "5"}
            )
        self.busy.add(name)
        self.sending[vehicle] += 1
        try:
            offset = self.uploads.offset(upload)
            if began != offset:
                raise Refused(409, f"Upload-Offset: {offset} bytes are here; continue from there")
            offset = await self._receive(request, upload, offset)
            headers = {"Tus-Resumable": TUS, "Upload-Offset": str(offset)}
            if offset == upload.length:
                await self._finish(upload)
                headers["Clip-Sha256"] = upload.sha256
            return Response(status_code=204, headers=headers)
        finally:
            self.busy.discard(name)
            self.sending[vehicle] -= 1
            if not self.sending[vehicle]:
                del self.sending[vehicle]

    async def _receive(self, request: Request, upload: Upload, begin: int) -> int:
        """Append the body; bytes received before a disconnect are kept. Returns the bytes now stored."""
        room = upload.length - begin
        announced = min(_number(request, "Content-Length"), room + 1) if "Content-Length" in request.headers else room
        if announced > room:
            raise Refused(413, f"more than the promised {upload.length} bytes")
        if not announced:
            return begin
        try:
            part = os.open(self.uploads.part(upload), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unkept(upload, error) from error
        came, booked, whole = [0], False, True
        try:
            granted = self.accounts.book(upload.vehicle, upload.id, begin, announced)
            booked = True
            whole = await self._append(request, part, room, granted, came)
        except (ClientDisconnect, TimeoutError) as error:
            raise Refused(408, f"the connection broke after {begin + came[0]} bytes; continue from there") from error
        except OSError as error:
            raise _full(error) from error
        finally:
            os.close(part)
            if came[0]:
                self.metrics.add("received_bytes_total", came[0])
            if booked:
                self.accounts.settle(upload.vehicle, upload.id, came[0])
        if not whole:
            raise self.accounts.all_sent(upload.vehicle)
        return begin + came[0]

    async def _append(self, request: Request, part: int, room: int, granted: int, came: list[int]) -> bool:
        """Write the body to an open file; came: bytes so far. False, with the rest unread, if more arrives than was
        granted. TimeoutError if the sender is too slow."""
        clock, seen = asyncio.get_running_loop().time, 0
        async with self.readers.reading(lambda: came[0]), asyncio.timeout(self.silence_s) as silence:
            async for piece in request.stream():
                if came[0] + len(piece) - seen >= SLOWEST:
                    silence.reschedule(clock() + self.silence_s)
                    seen = came[0] + len(piece)
                if came[0] + len(piece) > room:
                    raise Refused(413, f"more than the promised {room} bytes")
                if came[0] + len(piece) > granted:
                    return False
                view = memoryview(piece)
                while view:
                    wrote = os.write(part, view)
                    view, came[0] = view[wrote:], came[0] + wrote
        return True

    async def _finish(self, upload: Upload) -> None:
        """Check and hand over a complete upload; on return it may be acknowledged."""
        part, reason, took = self.uploads.part(upload), "", [0.0]

        def take() -> None:
            began = time.monotonic()
            try:
                self.landing.take(part, upload.sha256, upload.vehicle)
            finally:
                took[0] = time.monotonic() - began

        try:
            if not upload.length:
                part.touch()
            async with self.turns.turn(upload.vehicle):
                wait = self.penalties.wait(upload.vehicle)
                if wait:
                    self.metrics.add("put_off_total")
                    line = (
                        f"clips of this vehicle were refused; this one is complete and will be checked in {wait:.0f} s"
                    )
                    raise Refused(429, line, {"Retry-After": str(int(wait) + 1)})
                await asyncio.get_running_loop().run_in_executor(self.checks, take)
        except WrongHash as error:
            reason = "hash"
            self.uploads.restart(upload)
            raise Refused(460, str(error)) from error
        except WrongVehicle as error:
            reason = "vehicle"
            self.uploads.forget(upload)
            raise Refused(403, str(error)) from error
        except ValueError as error:
            reason = "clip"
            self.uploads.forget(upload)
            raise Refused(422, f"not a clip: {' '.join(str(error).split('.part: ')[-1].split())}") from error
        except OSError as error:
            reason = "room"
            raise self._unkept(upload, error) from error
        finally:
            self.metrics.add("check_seconds_total", took[0])
            if reason:
                self.metrics.add("refused_total", reason=reason)
            if reason in ("clip", "vehicle"):
                self.penalties.refused(upload.vehicle, took[0])
                _log.warning("%s: clip %s refused (%s)", upload.vehicle, upload.sha256[:12], reason)
        self.penalties.passed(upload.vehicle)
        self.metrics.add("acknowledged_total")
        self.uploads.forget(upload)

    def _unkept(self, upload: Upload, error: OSError) -> Refused:
        """The response if bytes cannot be stored; received bytes that have become unreadable are set aside."""
        part = self.uploads.part(upload)
        if error.errno not in _SPOILT or not (part.exists() or part.is_symlink()) or readable(part):
            return _full(error)
        self.uploads.lose(upload)
        return Refused(408, "the bytes received so far are unreadable; start again")

    def _vehicle(self, request: Request) -> str:
        vehicle = self.accounts.vehicle(request, "upload")
        if request.headers.get("Tus-Resumable") != TUS:
            raise Refused(412, f"Tus-Resumable: must be {TUS}", {"Tus-Version": TUS})
        return vehicle

    def _own(self, name: str, vehicle: str) -> Upload:
        upload = self.uploads.get(name, vehicle)
        if upload is None:
            raise Refused(404, "no such upload; create it")
        return upload


def _full(error: OSError) -> Refused:
    return Refused(507, f"no room for the upload ({public(error)}); try again later")


def _number(request: Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise Refused(400, f"{header}: must be an integer, got '{text[:40]}'")
    return int(text)


def _metadata(header: str) -> dict[str, str]:
    """Parse Upload-Metadata: comma-separated keys with base64 values."""
    pairs = {}
    for entry in filter(None, (part.strip() for part in header.split(","))):
        key, _, value = entry.partition(" ")
        try:
            pairs[key] = base64.b64decode(value, validate=True).decode()
        except ValueError as error:  # not base64, not UTF-8 inside, or not even ASCII
            raise Refused(400, f"Upload-Metadata: the value of '{key[:40]}' is not base64 text") from error
    return pairs
