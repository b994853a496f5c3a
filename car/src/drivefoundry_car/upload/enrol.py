"""An operator's one-time code in, short-lived tokens out: a car's standing with one ingest service, kept in a file.

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
"""Bytes of an answer that are read; a credential has about 500."""
_SECRET = re.compile(r"[!-~]{1,8192}")
"""What may stand in a header: printable ASCII without spaces."""


class Credential:
    """Tokens of one car for `Uploader`. file: where the credential is kept, readable by its owner only; insecure_http:
    see `endpoint.checked`.

    Each renewal brings a new refresh secret, and the old one dies with the first use of the new: a kill between the
    two loses nothing. Only an answer that is a credential replaces the file. Threads and processes may share it.
    """

    def __init__(self, server: str, file: Path | str, timeout: float = 30.0, *, insecure_http: bool = False) -> None:
        self.server, self.file, self.timeout = checked(server, insecure_http), Path(file), timeout
        self._opener = urllib.request.build_opener(_Stay)

    def enrol(self, code: str) -> str:
        """A one-time code in, the vehicle's name out; the file holds the credential. ValueError if it is refused,
        OSError if the service cannot be reached."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            return self._fetch("/enrol", {"code": code})["vehicle"]

    def __call__(self, stale: str = "") -> str:
        """A token other than the stale one, fetched if need be. ValueError if the service refuses the credential,
        OSError if it cannot be reached or something else answers in its place."""
        if not self.file.parent.is_dir():
            raise ValueError(f"{self.file}: no credential (no such folder); enrol the vehicle")
        with self._alone():  # whoever comes second finds the token that the first has fetched
            try:
                kept = json.loads(self.file.read_text())
                token, refresh = kept["token"], kept["refresh"]
                if not _is_secret(token) or not _is_secret(refresh):
                    raise ValueError("token and refresh must be texts")
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
        """The service's answer, a credential of the vehicle, kept in the file before it is used."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server + path, json.dumps(body).encode(), headers)
        try:
            data = self._ask(request)
        except HTTPException as error:
            raise OSError(f"{self.server}: {first_line(str(error)) or type(error).__name__}") from error
        told = _credential(data, vehicle)
        if isinstance(told, str):
            raise OSError(f"{self.server}{path}: the answer is not a credential ({told}); is a proxy or portal there?")
        sweep(self.file.parent, self.file.name)
        write_json(self.file, told)
        return told

    def _ask(self, request: urllib.request.Request) -> bytes:
        """The body of an answer that is no error."""
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
            raise OSError(line if own else f"{line} (not an answer of the ingest service)") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: secrets go to the server that was named, and to no other."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and _SECRET.fullmatch(value) is not None


def _credential(data: bytes, vehicle: str | None) -> dict[str, Any] | str:
    """The body of an answer in; the credential that it is, or what is wrong with it, out."""
    if len(data) > MOST:
        return f"more than {MOST} bytes"
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(told, dict):
        return "not a JSON object"
    for name in ("token", "refresh", "vehicle"):
        if not _is_secret(told.get(name)):
            return f"no text '{name}' in it"
    if vehicle is not None and told["vehicle"] != vehicle:
        return f"it is another vehicle's, not '{vehicle}'s"
    return told
