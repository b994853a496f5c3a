"""Bytes in, their SHA-256 out; and back, verified. Local directory or S3, content-addressed."""

from __future__ import annotations


class Objects:
    """Content-addressed objects under url: a directory path, file:// or s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def put(self, data: bytes) -> str:
        raise NotImplementedError

    def get(self, sha: str) -> bytes:
        raise NotImplementedError

    def has(self, sha: str) -> bool:
        raise NotImplementedError
