"""An S3 service on loopback: localbucket, which keeps buckets as folders, behind a check of Signature Version 4."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

KEY, SECRET, REGION = "AKIDCAR", "a secret of the test", "eu-north-1"


@dataclass
class Bucket:
    """The service and its one bucket, `clips`. asked: (method, status) of every request since the start."""

    port: int
    folder: Path
    asked: list[tuple[str, int]]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **changed: str) -> dict[str, str]:
        """Environment variables for a client."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}
        return keys | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"} | changed


@contextmanager
def s3(folder: Path, port: int = 0, heedless: bool = False) -> Iterator[Bucket]:
    """An S3 service over a folder until the block ends; heedless: ignores If-None-Match."""
    localbucket = pytest.importorskip("localbucket", reason="localbucket is not installed: the extra `dev` brings it")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    asked: list[tuple[str, int]] = []

    class Handler(localbucket.S3Handler):
        data_root = folder.resolve()
        protocol_version = "HTTP/1.0"  # no connection outlives the block

        def log_message(self, *_) -> None:
            pass

        def log_request(self, code="-", size="-") -> None:
            asked.append((self.command, int(code)))

        def _dispatch(self, action) -> None:
            wrong = refused(self.command, self.path, self.headers)
            if heedless:
                del self.headers["If-None-Match"]
            if wrong:
                self._read_body()
                self._send_error(localbucket.S3Error(HTTPStatus.FORBIDDEN, wrong, "no"))
            else:
                super()._dispatch(action)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_) -> None:
            """Ignore clients that disconnect during a response."""

    with Server(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield Bucket(server.server_address[1], folder, asked)
        finally:
            server.shutdown()


def refused(method: str, path: str, headers) -> str:
    """The S3 error code for a request's invalid signature, '' if it is valid.

    Source: AWS Signature Version 4, the canonical request and the string to sign.
    """
    said = headers.get("Authorization", "").removeprefix("AWS4-HMAC-SHA256 ")
    parts = dict(part.strip().split("=", 1) for part in said.split(",") if "=" in part)
    key, _, scope = parts.get("Credential", "").partition("/")
    if key != KEY:
        return "InvalidAccessKeyId" if key else "AccessDenied"
    if scope.split("/")[1] != REGION:
        return "AuthorizationHeaderMalformed"
    at = urlsplit(path)
    query = sorted(tuple(map(unquote, f"{q}=".split("=")[:2])) for q in at.query.split("&") if q)
    names = parts["SignedHeaders"].split(";")
    lines = [method, quote(unquote(at.path)), "&".join(f"{quote(k, '')}={quote(v, '')}" for k, v in query)]
    lines += [*(f"{n}:{' '.join(headers[n].split())}" for n in names), "", ";".join(names)]
    canonical = "\n".join([*lines, headers["x-amz-content-sha256"]])
    told = ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    signing = reduce(lambda k, part: _hmac(k, part), scope.split("/"), f"AWS4{SECRET}".encode())
    good = hmac.compare_digest(_hmac(signing, "\n".join(told)).hex(), parts["Signature"])
    return "" if good else "SignatureDoesNotMatch"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
