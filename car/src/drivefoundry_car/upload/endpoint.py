"""Which servers a car connects to, and which responses it trusts."""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

TUS = "1.0.0"
"""Version of tus; the ingest service sends it as `Tus-Resumable` with every refusal and every response about a clip."""
LINE = 200
"""Most characters of a response that are quoted in our messages."""
PIECE = 16 << 10


def checked(server: str, insecure_http: bool = False, what: str = "server") -> str:
    """Check a server's URL and return it without a trailing slash: https, or plain http on this machine.

    insecure_http allows plain http anywhere: anyone on the network path can then read the vehicle's secrets and
    impersonate the server. ValueError, naming `what`, for anything else.
    """
    try:
        at = urlsplit(server.strip())
        host, _ = at.hostname or "", at.port
    except ValueError as error:
        raise ValueError(f"{what}: '{server}' is not a URL ({error}); give https://host[:port]") from None
    if at.scheme not in ("http", "https") or not host or "@" in at.netloc or at.query or at.fragment:
        raise ValueError(f"{what}: '{server}' is not the URL of a server; give https://host[:port][/path]")
    if at.scheme == "http" and not insecure_http and not is_loopback(host):
        raise ValueError(
            f"{what}: {server} is plain http, which anyone on the network path can read; give its https:// URL, "
            "or allow it (insecure_http)"
        )
    return server.strip().rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is loopback, by its spelling alone, without a resolver."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def from_service(headers: dict[str, str]) -> bool:
    """Whether a response (headers by lower-case name) is from the ingest service, not from a proxy or portal."""
    return headers.get("tus-resumable", "").strip() == TUS


def read_answer(answer: Any, most: int, seconds: float) -> bytes:
    """Read at most `most` bytes of a response (an HTTPResponse or an HTTPError); OSError if it takes longer than
    `seconds`."""
    end, body = time.monotonic() + seconds, bytearray()
    while len(body) < most and (piece := answer.read1(min(PIECE, most - len(body)))):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError(f"the answer did not end within {seconds:.0f} s")
    answer.read(0)  # unlike read1, this releases the connection after the last byte
    return bytes(body)


def first_line(text: str) -> str:
    """The first line of a response, printable and short, for quoting in messages."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in line).strip()[:LINE]
