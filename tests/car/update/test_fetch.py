import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tuf.api import exceptions

from drivefoundry_car.update import fetch
from drivefoundry_car.update.fetch import Fetcher
from shipping import Line, refused


class Server:
    """Answers each connection with the bytes of `answer`, a piece every 20 ms; counts connections."""

    def __init__(self, answer: bytes, piece: int, tls: ssl.SSLContext | None):
        self.answer, self.piece, self.tls, self.connections = answer, piece, tls, 0
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' * (tls is not None)}://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while not self.closing.is_set():
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(taken,), daemon=True).start()

    def serve(self, taken: socket.socket) -> None:
        with self.tls.wrap_socket(taken, server_side=True) if self.tls else taken as taken:
            taken.recv(1 << 16)  # what has been read is not answered by a reset
            for at in range(0, len(self.answer), self.piece):
                try:
                    taken.sendall(self.answer[at : at + self.piece])
                except OSError:
                    return
                if self.closing.wait(0.02):
                    return


@contextmanager
def served(answer: bytes, piece: int, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answer, piece, tls)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
DRIPS = {
    "body": (HEAD + b"x" * 60_000, 1),
    "body after a burst": (HEAD + b"x" * 60_000, 8),
    "headers": (b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 5000, 1),
    "more and more headers": (b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 5000, 12),
}
SLOW = pytest.raises(exceptions.SlowRetrievalError, match="less than 2,000 bytes/s")


@pytest.mark.parametrize("drip", DRIPS)
def test_a_download_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drip: str) -> None:
    monkeypatch.setattr(fetch, "GRACE_S", 0.3)
    with served(*DRIPS[drip]) as server, SLOW:
        Fetcher(tmp_path).download_bytes(f"{server.url}/x", 60_000)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Even in the middle of the TLS handshake, long before the socket's own 30 s."""
    monkeypatch.setattr(fetch, "GRACE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener, SLOW:
        Fetcher(tmp_path).download_bytes(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/x", 60_000)


def test_tls_is_watched_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "GRACE_S", 1.0)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = certified(tmp_path)
    with served(HEAD + b"x" * 60_000, 60_000, context) as server:
        assert len(Fetcher(tmp_path).download_bytes(f"{server.url}/x", 60_000)) == 60_000
    with served(HEAD + b"x" * 60_000, 10, context) as server, SLOW:
        Fetcher(tmp_path).download_bytes(f"{server.url}/x", 60_000)


def certified(folder: Path) -> ssl.SSLContext:
    """A server's TLS for 127.0.0.1; clients must trust cert.pem."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
    made = made.add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    pem = made.public_bytes(Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def test_a_download_fast_enough_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the grace period alone would allow: 60 kB in twenty pieces."""
    monkeypatch.setattr(fetch, "GRACE_S", 0.2)
    monkeypatch.setattr(fetch, "PIECE", 3_000)
    with served(HEAD + b"x" * 60_000, 3_000) as server:
        fetcher = Fetcher(tmp_path)
        fetcher.chunk_size = 3_000
        assert fetcher.download_bytes(f"{server.url}/x", 60_000) == b"x" * 60_000
        assert server.connections == 1
        with pytest.raises(exceptions.DownloadLengthMismatchError):
            fetcher.download_bytes(f"{server.url}/x", 59_999)


def test_a_fetcher_that_gave_up_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "GRACE_S", 0.3)
    fetcher = Fetcher(tmp_path)
    with served(HEAD + b"x" * 60_000, 1) as slow, pytest.raises(exceptions.SlowRetrievalError):
        fetcher.download_bytes(f"{slow.url}/x", 60_000)
    with served(HEAD + b"x" * 60_000, 60_000) as server:
        assert len(fetcher.download_bytes(f"{server.url}/x", 60_000)) == 60_000


def test_slow_metadata_ends_an_update_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The car's release is unchanged, and a boot in the meantime does not wait."""
    line = Line(tmp_path)
    line.publish("one")
    line.car().update()
    monkeypatch.setattr(fetch, "GRACE_S", 1.0)
    with served(HEAD + b"x" * 60_000, 1) as server:
        car = line.car(server.url)
        update = threading.Thread(target=refused, args=(car, "download failed: .*less than 2,000 bytes/s"))
        update.start()
        while not server.connections:
            pass
        assert line.car().slots.boot().name == "one"
        assert update.is_alive()
        update.join()
