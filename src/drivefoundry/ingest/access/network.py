"""Network access to the service: TLS certificate, trusted proxies, limits on connections."""

from __future__ import annotations

import re
import resource
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

_MOST = 2048
"""Connections at once even with descriptors for more; this also bounds the parser's buffers."""
_SPARE = 64
"""Descriptors reserved for everything else: clip table, vehicle table, log."""
_FEWEST = 4
_HOPS = 32
"""Entries of a forwarding header that are read, from the right."""
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Access:
    """cert, key: PEM files, both or neither (plain HTTP). proxies: addresses or networks (CIDR) whose X-Forwarded-For
    or Forwarded header is trusted. connections: most at once (default: what the process's descriptors allow). header_s:
    time limit for a request's headers; silence_s: time within which a body must bring 4 KiB."""

    cert: Path | None = None
    key: Path | None = None
    proxies: tuple[str, ...] = ()
    connections: int | None = None
    header_s: float = 10.0
    silence_s: float = 30.0

    def validate(self) -> Access:
        """Return the settings; ValueError names the invalid field."""
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
        """How many connections may be open at once, each with a file to write. in_use: descriptors already taken.
        ValueError if the process may have too few."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        allowed = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, (soft - in_use - _SPARE) // 2)
        if allowed < _FEWEST:
            raise ValueError(
                f"ingest: {soft} file descriptors are too few, at least {in_use + _SPARE + 2 * _FEWEST} are needed; "
                "raise `ulimit -n`"
            )
        return allowed if self.connections is None else min(allowed, self.connections)


def raise_descriptors() -> None:
    """Raise this process's descriptor limit to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = 2 * _MOST + 4 * _SPARE
    if soft != resource.RLIM_INFINITY and soft < target:
        most = target if hard == resource.RLIM_INFINITY else min(hard, target)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class Proxies:
    """Proxies that are trusted to name the client."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in networks:
            try:
                self._networks.append(ip_network(text.strip()))
            except ValueError as error:
                expected = "an address or a network such as 10.0.0.0/8 or fd00::/8"
                raise ValueError(f"--trust-proxy {text}: not {expected} ({error})") from error

    def trusts(self, host: str) -> bool:
        """Whether this peer is a trusted proxy."""
        address = _address(host)
        return address is not None and self._has(address)

    def client(self, host: str, forwarded_for: Iterable[str], forwarded: Iterable[str]) -> str:
        """The address under which a request is counted: the peer's, or the client's according to trusted proxies.

        forwarded_for, forwarded: the values of the two headers, one per line. They are read from the right, since each
        proxy appends: the first address that does not belong to a trusted proxy is the client's. Forwarded (RFC 7239)
        counts only without X-Forwarded-For. IPv6 clients are counted by their /64 network.
        """
        address = _address(host)
        if address is None:
            return host
        if self._networks and self._has(address):
            hops = _listed(forwarded_for) or _named(forwarded)
            for hop in reversed(hops[-_HOPS:]):
                found = _address(hop)
                if found is None:  # a proxy may withhold the client's address
                    break
                address = found
                if not self._has(found):
                    break
        return _key(address)

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """Parse an address, perhaps with port, brackets or zone; None if it is not one."""
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
