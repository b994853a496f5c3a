"""Content-addressed object store: bytes by their SHA-256, verified on reading, in a local directory or S3."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from drivefoundry.clips import bucket

_SHA = re.compile(r"[0-9a-f]{64}")
_COMMITS = "commits"
"""An empty object for testing whether a store honours conditional writes."""


class ObjectStore:
    """Content-addressed objects under url: a directory path, file:// or s3://bucket/prefix (credentials from AWS_*).

    Object abcd... is stored at ab/cd/abcd...; a name is a small object that holds the SHA-256 it refers to. Writes are
    atomic. ValueError if an object is missing or does not match its hash, OSError if the store fails (full),
    ConnectionError if it is remote and fails (unreachable, no permission).
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            if bucket.remote(self.url):
                self._store = from_url(
                    self.url, retry_config={"max_retries": bucket.RETRIES, "retry_timeout": bucket.PATIENCE}
                )
            else:
                self._store = LocalStore(Path(self.url.removeprefix("file://")), mkdir=True)
        except (BaseError, OSError, ValueError) as error:
            raise ValueError(
                f"object store {self.url}: {_line(error)}; give a directory or s3://bucket/prefix"
            ) from error

    def reach(self) -> None:
        """Check that the store answers and its objects can be listed, with one request if remote; else ValueError."""
        if bucket.remote(self.url):
            try:
                next(iter(obstore.list(self._store, prefix=_COMMITS)), None)
            except (BaseError, OSError) as error:
                raise ValueError(f"object store {self.url}: {bucket.reason(error)}") from error

    def require_commits(self) -> None:
        """Check that a remote store honours `If-None-Match: *`, which Lance's commits need; else ValueError."""
        if not bucket.remote(self.url):
            return
        with self._doing("commit"):
            for _ in range(2):
                try:
                    obstore.put(self._store, _COMMITS, b"", mode="create")
                except AlreadyExistsError:
                    return
        raise ValueError(
            f"object store {self.url}: it ignores If-None-Match, so that one of two concurrent writers would "
            "lose its rows; use a store with conditional writes"
        )

    def put(self, data: bytes) -> str:
        """Store data and return its SHA-256 in hex. An object that is already stored is not written again, unless a
        power cut truncated it. In a local directory it is durable after `sync`."""
        sha = hashlib.sha256(data).hexdigest()
        if self._size(sha) != len(data):
            self._write(_path(sha), data)
        return sha

    def sync(self) -> None:
        """Make all puts durable; a bucket does that with each put."""
        if isinstance(self._store, LocalStore):
            os.sync()

    def get(self, sha: str) -> bytes:
        """Return the bytes with this SHA-256, verified."""
        data = self._read(_path(sha))
        if data is None:
            raise ValueError(f"object {sha}: not in {self.url}")
        if hashlib.sha256(data).hexdigest() != sha:
            raise ValueError(
                f"object {sha}: damaged in {self.url} (its hash differs); delete it and land the clip again"
            )
        return data

    def has(self, sha: str) -> bool:
        """Whether an object is stored (its bytes are verified when read)."""
        return self._size(sha) is not None

    def _size(self, sha: str) -> int | None:
        with self._doing("look for", path := _path(sha)):
            try:
                return obstore.head(self._store, path)["size"]
            except (FileNotFoundError, NotFoundError):
                return None

    def set_name(self, name: str, sha: str) -> None:
        """Point a name ('maps/1a2b') to an object; the last call wins."""
        self._write(_name(name), sha.encode())

    def named(self, name: str) -> str:
        """Return the SHA-256 that a name points to."""
        data = self._read(_name(name))
        if data is None:
            raise ValueError(f"name '{name}': not in {self.url}")
        return data.decode()

    def _write(self, path: str, data: bytes) -> None:
        with self._doing("write", path):
            obstore.put(self._store, path, data)

    def _read(self, path: str) -> bytes | None:
        with self._doing("read", path):
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except (FileNotFoundError, NotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    @contextmanager
    def _doing(self, what: str, path: str = "") -> Iterator[None]:
        """Turn the store's failures into an OSError of one line."""
        try:
            yield
        except (BaseError, OSError) as error:
            about = f"object store {self.url}: cannot {what} {path}".rstrip()
            if bucket.remote(self.url):
                raise ConnectionError(f"{about} ({bucket.reason(error)})") from error
            raise OSError(f"{about} ({_line(error)})") from error


def _path(sha: str) -> str:
    if not _SHA.fullmatch(sha):
        raise ValueError(f"object '{sha}': not a SHA-256 of 64 hex digits")
    return f"{sha[:2]}/{sha[2:4]}/{sha}"


def _name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        raise ValueError(f"name '{name}': must be letters, digits, '.', '-', '_', with single '/' between them")
    return f"names/{name}"


def _line(error: Exception) -> str:
    return str(error).split("\n")[0]
