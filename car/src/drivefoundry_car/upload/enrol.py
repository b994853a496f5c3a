"""A car's credential with one ingest service, stored in a file: from an operator's one-time code to short-lived tokens.

Nothing here reads a clock: a token is used until the service refuses it, then renewed.
"""

from __future__ import annotations

import fcntl
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from drivefoundry_car.durable import sweep, write_json
from drivefoundry_car.upload.endpoint import checked, first_line, from_service, read_answer

MOST = 64 << 10
"""Most bytes of a response that are read; a credential has about 500."""
_SECRET = re.compile(r"[!-~]{1,8192}")
"""Characters allowed in a header: printable ASCII without spaces."""


class Credential:
    """Tokens of one car for `Uploader`. file: the stored credential, readable by its owner only; insecure_http: see
    `endpoint.checked`.

    Each renewal brings a new refresh secret, and the old one expires with the first use of the new: a crash in between
    loses nothing. Only a valid credential replaces the file. Threads and processes may share it.
    """

    def __init__(self, server: str, file: Path | str, timeout: float = 30.0, *, insecure_http: bool = False) -> None:
        self.server, self.file, self.timeout = checked(server, insecure_http), Path(file), timeout
        self._opener = urllib.request.build_opener(_Stay)

    def enrol(self, code: str) -> str:
        """Exchange a one-time code for a credential, store it, and return the vehicle's name. ValueError if the code is
        refused, OSError if the service is unreachable."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            return self._fetch("/enrol", {"code": code})["vehicle"]

    def __call__(self, stale: str = "") -> str:
        """Return a token other than the stale one, fetching it if needed. ValueError if the service refuses the
        credential, OSError if it is unreachable or something else responds in its place."""
        if not self.file.parent.is_dir():
            raise ValueError(f"{self.file}: no credential (missing folder); enrol the vehicle")
        with self._alone():  # the second caller finds the token that the first has fetched
            try:
                kept = json.loads(self.file.read_text())
                token, refresh = kept["token"], kept["refresh"]
                if not _is_secret(token) or not _is_secret(refresh):
                    raise ValueError("token and refresh must be strings")
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{self.file}: no credential ({error}); enrol the vehicle") from error
            if token != stale:
                return token
            vehicle = kept.get("vehicle")
            return self._fetch("/token", {"refresh": refresh}, vehicle if _is_secret(vehicle) else None)["token"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self.file.with_name(f".{self.file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, path: str, body: dict[str, str], vehicle: str | None = None) -> dict[str, str]:
        """Fetch a credential of the vehicle, and store it before it is used."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server + path, json.dumps(body).encode(), headers)
        try:
            data = self._ask(request)
        except HTTPException as error:
            raise OSError(f"{self.server}: {first_line(str(error)) or type(error).__name__}") from error
        fault = _credential(data, vehicle)
        if isinstance(fault, str):
            raise OSError(
                f"{self.server}{path}: the response is not a credential ({fault}); is there a proxy or portal?"
            )
        sweep(self.file.parent, self.file.name)
        write_json(self.file, fault)
        return fault

    def _ask(self, request: urllib.request.Request) -> bytes:
        """The body of a successful response."""
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return read_answer(answer, MOST + 1, self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                said = read_answer(error, MOST, self.timeout).decode(errors="replace")
                own = from_service({name.lower(): text for name, text in error.headers.items()})
            line = f"{self.server}: {error.code} {first_line(said)}"
            if own and error.code in (400, 401, 403):
                raise ValueError(line) from None
            raise OSError(line if own else f"{line} (not from the ingest service)") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: secrets go only to the configured server."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and _SECRET.fullmatch(value) is not None


def _credential(data: bytes, vehicle: str | None) -> dict[str, Any] | str:
    """Parse a response body as a credential; return it, or what is wrong with it."""
    if len(data) > MOST:
        return f"more than {MOST} bytes"
    try:
        fault = json.loads(data)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(fault, dict):
        return "not a JSON object"
    for name in ("token", "refresh", "vehicle"):
        if not _is_secret(fault.get(name)):
            return f"'{name}' is missing or not a string"
    if vehicle is not None and fault["vehicle"] != vehicle:
        return f"it belongs to another vehicle than '{vehicle}'"
    return fault
