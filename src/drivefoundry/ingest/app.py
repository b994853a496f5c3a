"""Requests of cars in, answers out: tus 1.0 (core, creation) with a token per vehicle and a SHA-256 per file.

Answers: 201 created (Upload-Offset says how far it has come), 204 taken, 401 token refused, 403 another vehicle's, 404
no such upload, 409 wrong offset, 412 other tus version, 413 too large, 415 wrong type, 422 no drive, 423 in use, 460
wrong hash, 507 no room. The header Clip-Sha256 acknowledges: the file with this hash is here for good.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from drivefoundry.ingest.landing import Landing
from drivefoundry.ingest.tokens import vehicle_of
from drivefoundry.ingest.uploads import Upload, Uploads

TUS = "1.0.0"
MAX_BYTES = 256 << 20
"""Largest clip that is taken."""
SILENCE_S = 30.0
"""A request that sends nothing for this long loses its hold on the upload."""


class Refused(Exception):
    """A request that is answered with an error status and one line of text."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def make_app(landing: Landing, secret: str, folder: Path) -> FastAPI:
    """The service over one landing; unfinished uploads are kept in folder."""
    app = FastAPI(title="drivefoundry ingest", docs_url=None, redoc_url=None)
    service = _Service(landing, secret, Uploads(folder))
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/uploads", service.options, methods=["OPTIONS"], status_code=204)
    app.add_api_route("/uploads", service.create, methods=["POST"], status_code=201)
    app.add_api_route("/uploads/{name}", service.head, methods=["HEAD"])
    app.add_api_route("/uploads/{name}", service.patch, methods=["PATCH"], status_code=204)

    @app.exception_handler(Refused)
    async def refuse(_: Request, error: Refused) -> Response:
        return PlainTextResponse(str(error), error.status, {"Tus-Resumable": TUS})

    return app


class _Service:
    """The routes and what they share."""

    def __init__(self, landing: Landing, secret: str, uploads: Uploads) -> None:
        self.landing, self.secret, self.uploads = landing, secret, uploads
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Checking a clip is work for the processor: two at a time, away from the event loop.
        self.checkers = ThreadPoolExecutor(2, thread_name_prefix="check")

    async def health(self) -> Response:
        return JSONResponse({"status": "ok", **self.landing.counts()})

    async def options(self) -> Response:
        extensions = {"Tus-Version": TUS, "Tus-Extension": "creation", "Tus-Max-Size": str(MAX_BYTES)}
        return Response(status_code=204, headers={"Tus-Resumable": TUS, **extensions})

    async def create(self, request: Request) -> Response:
        vehicle = self._vehicle(request)
        length = _number(request, "Upload-Length")
        if length > MAX_BYTES:
            raise Refused(413, f"Upload-Length: {length} bytes are more than the {MAX_BYTES} that are taken; cut it")
        sha = _metadata(request.headers.get("Upload-Metadata", "")).get("sha256", "")
        if not re.fullmatch(r"[0-9a-f]{64}", sha):
            raise Refused(400, "Upload-Metadata: sha256 of the file is missing; send it as 64 hex digits in base64")
        upload = self.uploads.create(vehicle, sha, length)
        headers = {"Tus-Resumable": TUS, "Location": f"/uploads/{upload.id}"}
        if self.landing.has(sha):
            self.uploads.forget(upload)
            headers |= {"Upload-Offset": str(length), "Clip-Sha256": sha}
        else:
            headers["Upload-Offset"] = str(self.uploads.offset(upload))
        return Response(status_code=201, headers=headers)

    async def head(self, name: str, request: Request) -> Response:
        upload = self._own(name, self._vehicle(request))
        size = {"Upload-Offset": str(self.uploads.offset(upload)), "Upload-Length": str(upload.length)}
        return Response(status_code=200, headers={"Tus-Resumable": TUS, "Cache-Control": "no-store", **size})

    async def patch(self, name: str, request: Request) -> Response:
        vehicle = self._vehicle(request)
        if request.headers.get("Content-Type") != "application/offset+octet-stream":
            raise Refused(415, "Content-Type: application/offset+octet-stream wanted")
        lock = self.locks[name]
        if lock.locked():
            raise Refused(423, "another request adds to this upload; try again later")
        async with lock:
            upload = self._own(name, vehicle)
            offset = self.uploads.offset(upload)
            if _number(request, "Upload-Offset") != offset:
                raise Refused(409, f"Upload-Offset: {offset} bytes are here; go on from there")
            offset = await self._receive(request, upload, offset)
            headers = {"Tus-Resumable": TUS, "Upload-Offset": str(offset)}
            if offset == upload.length:
                await asyncio.get_running_loop().run_in_executor(self.checkers, self._finish, upload)
                headers["Clip-Sha256"] = upload.sha256
                del self.locks[name]
            return Response(status_code=204, headers=headers)

    async def _receive(self, request: Request, upload: Upload, offset: int) -> int:
        """Append what comes; what came before the link broke is kept. Returns the bytes now here."""
        pieces = aiter(request.stream())
        with self.uploads.part(upload).open("ab") as file:
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces, None), SILENCE_S)
                except (ClientDisconnect, TimeoutError) as error:
                    raise Refused(408, f"the link broke after {offset} bytes; go on from there") from error
                if piece is None:
                    return offset
                if offset + len(piece) > upload.length:
                    raise Refused(413, f"more than the promised {upload.length} bytes")
                try:
                    file.write(piece)
                    file.flush()
                except OSError as error:
                    raise Refused(507, f"no room for the upload ({error.strerror}); try again later") from error
                offset += len(piece)

    def _finish(self, upload: Upload) -> None:
        """Verify, check and hand over a whole upload; on return it may be acknowledged."""
        if not self.uploads.verified(upload):
            raise Refused(460, "the bytes do not have the promised SHA-256; send the file again")
        try:
            self.landing.take(self.uploads.part(upload), upload.sha256, upload.vehicle)
        except ValueError as error:
            self.uploads.forget(upload)
            raise Refused(422, f"not a clip: {str(error).split('.part: ')[-1]}") from error
        except PermissionError as error:
            self.uploads.forget(upload)
            raise Refused(403, str(error)) from error
        except OSError as error:
            raise Refused(507, f"no room for the clip ({error}); try again later") from error
        self.uploads.forget(upload)

    def _vehicle(self, request: Request) -> str:
        if request.headers.get("Tus-Resumable") != TUS:
            raise Refused(412, f"Tus-Resumable: {TUS} wanted")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "Authorization: a bearer token wanted")
        try:
            return vehicle_of(self.secret, token.strip())
        except ValueError as error:
            raise Refused(401, str(error)) from error

    def _own(self, name: str, vehicle: str) -> Upload:
        upload = self.uploads.get(name)
        if upload is None:
            raise Refused(404, "no such upload; create it")
        if upload.vehicle != vehicle:
            raise Refused(403, "this upload is another vehicle's")
        return upload


def _number(request: Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise Refused(400, f"{header}: a whole number wanted, not '{text}'")
    return int(text)


def _metadata(header: str) -> dict[str, str]:
    """Upload-Metadata (comma-separated keys with base64 values) in, its pairs out."""
    pairs = {}
    for entry in filter(None, (part.strip() for part in header.split(","))):
        key, _, value = entry.partition(" ")
        try:
            pairs[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Refused(400, f"Upload-Metadata: the value of '{key}' is not base64 text") from error
    return pairs
