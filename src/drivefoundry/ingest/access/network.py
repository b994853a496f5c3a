"""How the network reaches the service: its TLS certificate, the proxies it trusts, the bounds on connections."""

from __future__ import annotations

import re
import resource
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

_MOST = 2048
"""Connections at once where the process may have descriptors for more: the parser's buffers are bounded so, too."""
_SPARE = 64
"""Descriptors kept back for what is not a connection: the table of clips, the vehicles, the log."""
_FEWEST = 4
_HOPS = 32
"""Entries of a forwarding header that are looked at, from the right."""
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Access:
    """cert, key: PEM files, both or none (plain HTTP). proxies: addresses or networks (CIDR) whose X-Forwarded-For or
    Forwarded header is believed. connections: most at once (default: what the descriptors of the process allow).
    header_s: time for a request's headers; silence_s: a body must bring 4 KiB in so long, or end."""

    cert: Path | None = None
    key: Path | None = None
    proxies: tuple[str, ...] = ()
    connections: int | None = None
    header_s: float = 10.0
    silence_s: float = 30.0

    def validate(self) -> Access:
        """The settings themselves. ValueError naming the field."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("Access: --cert and --key come together; give both PEM files, or none for plain HTTP")
        for name in ("connections", "header_s", "silence_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Access.{name}: must be > 0, got {value}")
        Proxies(self.proxies)
        return self

    def context(self) -> ssl.SSLContext | None:
        """The certificate, for TLS 1.2 or later; None for plain HTTP. ValueError names the file that is wrong."""
        if self.cert is None or self.key is None:
            return None
        for file in (self.cert, self.key):
            try:
                file.read_bytes()
            except OSError as error:
                raise ValueError(f"{file}: cannot be read ({error.strerror}); name a PEM file") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2

        def no_password() -> str:
            raise ValueError(f"{self.key}: the key is encrypted; give one without a passphrase")

        try:
            context.load_cert_chain(self.cert, self.key, no_password)
        except ssl.SSLError as error:
            why = (error.reason or str(error)).replace("_", " ").lower()
            raise ValueError(
                f"{self.cert}, {self.key}: not a certificate and its own key in PEM ({why}); give the chain as --cert "
                "and its private key as --key"
            ) from error
        return context

    def most(self, in_use: int) -> int:
        """Connections that may be open at once, each with a file that it writes. in_use: descriptors taken already.
        ValueError where the process may have too few."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        allowed = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, (soft - in_use - _SPARE) // 2)
        if allowed < _FEWEST:
            raise ValueError(
                f"ingest: {soft} file descriptors are too few, {in_use + _SPARE + 2 * _FEWEST} is the least; "
                "raise `ulimit -n`"
            )
        return allowed if self.connections is None else min(allowed, self.connections)


def raise_descriptors() -> None:
    """Let this process have as many descriptors as it may use, without asking anybody for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST + 4 * _SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class Proxies:
    """The proxies that are trusted to say whom they speak for."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in networks:
            try:
                self._networks.append(ip_network(text.strip()))
            except ValueError as error:
                wanted = "an address or a network such as 10.0.0.0/8 or fd00::/8"
                raise ValueError(f"--trust-proxy {text}: not {wanted} ({error})") from error

    def trusts(self, host: str) -> bool:
        """Whether this peer is one of them."""
        address = _address(host)
        return address is not None and self._has(address)

    def client(self, host: str, forwarded_for: Iterable[str], forwarded: Iterable[str]) -> str:
        """The address that a request is counted under: the peer's, or the one that trusted proxies say it came from.

        forwarded_for, forwarded: the values of the two headers, one a line. Read from the right, as each proxy appends
        to what it was sent: the first address that is not a trusted proxy's is the client's. Forwarded (RFC 7239)
        counts where there is no X-Forwarded-For. IPv6 clients are counted by their network of 64 bits.
        """
        address = _address(host)
        if address is None:
            return host
        if self._networks and self._has(address):
            hops = _listed(forwarded_for) or _named(forwarded)
            for hop in reversed(hops[-_HOPS:]):
                found = _address(hop)
                if found is None:  # a proxy may hide whom it speaks for
                    break
                address = found
                if not self._has(found):
                    break
        return _key(address)

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """An address, perhaps with a port, brackets or a zone; None where it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _key(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def _listed(lines: Iterable[str]) -> list[str]:
    return [hop for line in lines for hop in line.split(",") if hop.strip()]


def _named(lines: Iterable[str]) -> list[str]:
    hops = (re.search(r"(?:^|;)\s*for=([^;]*)", hop, re.IGNORECASE) for line in lines for hop in line.split(","))
    return [hop[1] if hop else "" for hop in hops]
