"""Which client a request is attributed to, with and without proxies; TLS with a self-made certificate."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from serving import invited, landed, serving

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.network import Access, Proxies
from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.uploader import Uploader

SECRET = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("peer", "listed", "named", "expected"),
    [
        ("10.0.0.9", ["203.0.113.7"], [], "203.0.113.7"),
        ("10.0.0.9", ["198.51.100.1, 203.0.113.7"], [], "203.0.113.7"),  # the left is what the client claims
        ("10.0.0.9", ["198.51.100.1", "203.0.113.7, 10.1.2.3"], [], "203.0.113.7"),
        ("10.0.0.9", ["203.0.113.7:4711"], [], "203.0.113.7"),
        ("10.0.0.9", ["[2001:db8:1:2:3::4]:4711"], [], "2001:db8:1:2::/64"),
        ("10.0.0.9", ["unknown"], [], "10.0.0.9"),
        ("10.0.0.9", ["203.0.113.7, unknown"], [], "10.0.0.9"),
        ("10.0.0.9", [], ['for=203.0.113.7;proto=https;by=10.0.0.9, For="10.4.5.6:80"'], "203.0.113.7"),
        ("10.0.0.9", [], ['for="[2001:db8:1:2::5]:47"'], "2001:db8:1:2::/64"),
        ("10.0.0.9", [], ["for=_hidden"], "10.0.0.9"),
        ("10.0.0.9", ["203.0.113.7"], ["for=198.51.100.1"], "203.0.113.7"),
        ("10.0.0.9", ["10.0.0.1, 10.0.0.2"], [], "10.0.0.1"),
        ("10.0.0.9", [], [], "10.0.0.9"),
        ("::ffff:10.0.0.9", ["203.0.113.7"], [], "203.0.113.7"),
        ("203.0.113.9", ["198.51.100.1"], ["for=198.51.100.1"], "203.0.113.9"),
        ("2001:db8:1:2:aaaa::1", ["198.51.100.1"], [], "2001:db8:1:2::/64"),
        ("127.0.0.1", ["198.51.100.1"], [], "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_say_whom_they_speak_for(peer, listed, named, expected):
    assert Proxies(["10.0.0.0/8"]).client(peer, listed, named) == expected


@given(st.lists(st.text(max_size=60), max_size=4), st.lists(st.text(max_size=60), max_size=4))
def test_any_forwarding_header_yields_an_address(listed, named):
    assert Proxies(["10.0.0.0/8"]).client("192.0.2.1", listed, named) == "192.0.2.1"
    assert Proxies(["10.0.0.0/8"]).client("10.0.0.1", listed, named)


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.0/99", "10.0.0.1/8"])
def test_an_invalid_network_is_refused(text, capsys):
    assert cli.main(["ingest", "serve", "--trust-proxy", text]) == 2
    said = capsys.readouterr().err
    assert f"--trust-proxy {text}: not an address or a network" in said
    assert said.count("\n") == 1


def codes(url: str, count: int, **headers: str) -> list[int]:
    """Answers to a number of wrong enrolment codes."""
    with httpx.Client(base_url=url, headers=headers) as client:
        return [client.post("/enrol", json={"code": f"wrong-{i}"}).status_code for i in range(count)]


def test_wrong_secrets_of_one_address_hold_up_no_right_ones(tmp_path):
    with running(ClipStore(tmp_path), limits=Limits(requests=0.01, burst=5)) as service:
        enrolled = httpx.post(f"{service.url}/enrol", json={"code": invited(tmp_path, "car-1")}).json()
        assert codes(service.url, 7) == [401] * 5 + [429] * 2
        forged = {"Authorization": f"Bearer {issue_token('another secret of 32 characters!', 'car-1')}"}
        assert httpx.get(f"{service.url}/status", headers=forged).status_code == 429
        renewed = httpx.post(f"{service.url}/token", json={"refresh": enrolled["refresh"]})
        assert renewed.status_code == 200
        own = {"Authorization": f"Bearer {renewed.json()['token']}"}
        assert httpx.get(f"{service.url}/status", headers=own).status_code == 200
        other = httpx.post(f"{service.url}/enrol", json={"code": invited(tmp_path, "car-2")})
        assert other.status_code == 200
        # And a vehicle's own haste is counted apart, and costs it no secret.
        refresh, answers = renewed.json()["refresh"], []
        for _ in range(6):
            answer = httpx.post(f"{service.url}/token", json={"refresh": refresh})
            answers.append(answer.status_code)
            refresh = answer.json()["refresh"] if answer.status_code == 200 else refresh
    assert answers == [200, 200, 429, 429, 429, 429]


def test_forged_tokens_are_limited(tmp_path):
    forged = {"Authorization": f"Bearer {issue_token('another secret of 32 characters!', 'car-1')}"}
    with running(ClipStore(tmp_path), SECRET, limits=Limits(requests=0.01, burst=3)) as service:
        answers = [httpx.get(f"{service.url}/status", headers=forged).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        stale = {"Authorization": f"Bearer {issue_token(SECRET, 'car-2', ttl=-100)}"}
        assert httpx.get(f"{service.url}/status", headers=stale).status_code == 401


def test_a_header_opens_no_new_purse_unless_a_proxy_is_trusted(tmp_path):
    limits = Limits(requests=0.01, burst=3)
    for proxies, expected in (((), [401] * 3 + [429] * 3), (("127.0.0.1",), [401] * 6)):
        with running(ClipStore(tmp_path), limits=limits, access=Access(proxies=proxies)) as service:
            answers = [codes(service.url, 1, **{"X-Forwarded-For": f"203.0.113.{i}"})[0] for i in range(6)]
            assert answers == expected
            assert codes(service.url, 5, **{"X-Forwarded-For": "198.51.100.1"})[-1] == 429


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, self-signed, and its key."""
    return made(tmp_path_factory.mktemp("tls"))


def made(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "drivefoundry test")])
    own = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, now - timedelta(days=1), now + timedelta(days=1))
    signed = made.add_extension(own, False).add_extension(x509.BasicConstraints(True, None), True)
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    return cert, private


def test_clips_arrive_over_tls(certificate, tmp_path, make_drive, monkeypatch):
    cert, key = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    with serving(tmp_path / "store", "--cert", str(cert), "--key", str(key)) as service:
        assert service.url.startswith("https://127.0.0.1:")
        credential = service.enrolled("car-1", tmp_path)
        (receipt,) = Uploader(service.url, credential, tmp_path / "queue").send_all([tmp_path / "a.mcap"])
        own = ssl.create_default_context()
        with httpx.Client(verify=own) as client:
            assert client.get(f"{service.url}/health").status_code == 200
        plain = service.url.replace("https", "http")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{plain}/health")
        service.stop()
    assert landed(tmp_path / "store") == [receipt.sha256]


def test_no_older_tls_is_spoken(certificate):
    context = Access(*certificate).context()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_missing_handshakes_block_nobody(certificate, tmp_path):
    own = ssl.create_default_context(cafile=str(certificate[0]))
    with running(ClipStore(tmp_path), SECRET, access=Access(*certificate, connections=8)) as service:
        at = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        held = [socket.create_connection(at) for _ in range(30)]
        with httpx.Client(verify=own) as client:
            assert client.get(f"{service.url}/health").status_code == 200
            large = client.get(f"{service.url}/health", headers={"X": "a" * 70_000})
        assert large.status_code == 431
        for link in held:
            link.close()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (lambda c, k, t: [c], "--cert and --key come together"),
        (lambda c, k, t: [t / "none.pem", k], r"none\.pem: cannot be read \(No such file"),
        (lambda c, k, t: [t, k], "cannot be read"),
        (lambda c, k, t: [k, c], "not a certificate and its own key in PEM"),
        (lambda c, k, t: [c, made(t)[1]], "not a certificate and its own key in PEM"),
        (lambda c, k, t: made(t, b"secret"), r"key\.pem: the key is encrypted"),
    ],
)
def test_invalid_certificates_are_refused_in_one_line(certificate, tmp_path, files, says):
    with pytest.raises(ValueError, match=rf"^[^\n]*{says}[^\n]*$"):
        Access(*files(*certificate, tmp_path)).validate().context()
