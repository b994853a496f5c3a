"""Which servers a car talks to, and which answers it believes."""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

TUS = "1.0.0"
"""Version of tus; every refusal of the ingest service, and every answer about a clip, carries it in `Tus-Resumable`."""
LINE = 200
"""Most characters of an answer that are repeated in a line of ours."""
PIECE = 16 << 10


def checked(server: str, insecure_http: bool = False, what: str = "server") -> str:
    """The URL of a server without a trailing slash, if a car may use it: https, or plain http on this machine.

    insecure_http allows plain http anywhere: whoever is on the way then reads the vehicle's secrets and can answer in
    the server's place. ValueError, naming `what`, for anything else.
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
            f"{what}: {server} is plain http, which anybody on the way can read and change; give its https:// URL, "
            "or allow it (insecure_http)"
        )
    return server.strip().rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own, by its spelling alone: no resolver is asked."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def from_service(headers: dict[str, str]) -> bool:
    """Whether an answer (headers by lower-case name) is the ingest service's own, not that of a proxy or portal."""
    return headers.get("tus-resumable", "").strip() == TUS


def read_answer(answer: Any, most: int, seconds: float) -> bytes:
    """The body of an answer (an HTTPResponse or an HTTPError), at most `most` bytes of it; OSError where it does not
    end within so many seconds."""
    end, body = time.monotonic() + seconds, bytearray()
    while len(body) < most and (piece := answer.read1(min(PIECE, most - len(body)))):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError(f"the answer did not end within {seconds:.0f} s")
    answer.read(0)  # unlike read1, it lets go of the connection once all has come
    return bytes(body)


def first_line(text: str) -> str:
    """The first line of an answer as it may stand in a line of ours: printable and short."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in line).strip()[:LINE]
