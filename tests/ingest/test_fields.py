"""Every header, claim and JSON field that the service reads: any value gets an answer, and none causes a fault."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from urllib.parse import urlparse

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey
from serving import BODY, TUS, about

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.tokens import AUDIENCE, bearer_of

SECRET = "0123456789abcdef" * 2
WHO = {"Authorization": f"Bearer {issue_token(SECRET, 'car-1')}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(ClipStore(tmp_path_factory.mktemp("store")), SECRET, limits=Limits(requests=1e6, burst=10**6)) as it:
        yield it


def asked(url: str, method: str, path: str, headers: dict[str, bytes], body: bytes = b"") -> int:
    """The status of one request whose header values may be any bytes except line ends."""
    at = urlparse(url)
    lines = {"Host": b"x", "Connection": b"close", "Content-Length": b"%d" % len(body)} | headers
    raw = f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: ".encode() + v + b"\r\n" for k, v in lines.items())
    with socket.create_connection((at.hostname, at.port), timeout=30) as link:
        link.sendall(raw + b"\r\n" + body)
        said = b""
        while piece := link.recv(1 << 16):
            said += piece
    return int(said.split(b" ", 2)[1])


def encoded(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in headers.items()}


SHA = base64.b64encode(hashlib.sha256(b"").hexdigest().encode())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"sha256 " + SHA + b",filename " + "Straße".encode(), 400),
        (b"sha256 " + SHA + b",filename \xff\xfe", 400),
        (b"sha256 " + SHA + b",filename \xb2\xb3", 400),
        (b"sha256 " + SHA + b",filename /w==", 400),  # base64 of bytes that are no text
        (b"sha256 " + SHA + b",filename ===", 400),
        (b"sha256 " + SHA + b",filename a", 400),
        (b"sha256 " + "é".encode() * 40, 400),
        ("clé ".encode() + SHA, 400),
        (b"sha256 " + SHA + b",\xe9t\xe9 " + SHA, 201),
        (b"sha256 " + SHA + b",confidential", 201),
        (b"sha256 " + SHA + b",filename " + base64.b64encode("Straße 東京".encode()), 201),
    ],
)
def test_metadata_of_an_upload(service, value, expected):
    headers = encoded(TUS | WHO | {"Upload-Length": "0"}) | {"Upload-Metadata": value}
    assert asked(service.url, "POST", "/uploads", headers) == expected


LINE = st.binary(max_size=60).map(lambda b: bytes(c for c in b if c >= 32 and c != 127))
ODD = st.one_of(
    LINE,
    st.sampled_from([b"", b"-1", b"+1", b"1e3", b"0x10", b"1_0", b"\xb2", "١٢".encode(), b"9" * 18, b"9" * 30, b"1 2"]),
)
FIELDS = ("Authorization", "Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Content-Type",
          "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "X-Forwarded-For", "Forwarded")  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(FIELDS), ODD, st.sampled_from(["POST", "PATCH", "HEAD", "GET", "have", "enrol", "token"]))
def test_odd_headers_are_answered(service, field, value, verb):
    data = b"0123456789"
    begun = httpx.post(f"{service.url}/uploads", headers=about(data) | WHO).headers["Location"]
    headers = encoded(about(data) | WHO | BODY | {"Upload-Offset": "0"})
    method, path, body = verb, begun, b""
    if verb == "POST":
        path = "/uploads"
    elif verb == "GET":
        path = "/status"
    elif verb.islower():
        method, path, body = "POST", f"/{verb}", b"{}"
        headers["Content-Type"] = b"application/json"
    if field in ("Content-Length", "Transfer-Encoding"):  # the bytes that it tells of may never come
        body = b""
        value = value if value.strip() in (b"", b"0") else b"0" + value
    status = asked(service.url, method, path, headers | {field: value}, body)
    assert 200 <= status < 500, (field, value, verb)


NESTED = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=6,
)


@settings(max_examples=25)
@given(st.sampled_from(["have", "enrol", "token"]), JSON, st.sampled_from(["whole", "field", "items"]))
def test_odd_documents_are_answered(service, verb, value, place):
    name = {"have": "sha256", "enrol": "code", "token": "refresh"}[verb]
    document = {"whole": value, "field": {name: value}, "items": {name: [value, "0" * 64]}}[place]
    headers = encoded(WHO | {"Content-Type": "application/json"})
    assert asked(service.url, "POST", f"/{verb}", headers, json.dumps(document).encode()) in (200, 400, 401)


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 100_000, NESTED[: 120 << 10], b'{"sha256": ' + b"1" * 100_000 + b"}", b"\xff\xfe{}", b'"\\ud800"',
     b'{"sha256": ["' + b"0" * 63 + "٣".encode() + b'"]}', b"NaN", b"\0" * 100],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["have", "enrol", "token"])
def test_bodies_that_are_no_documents_are_refused(service, verb, body):
    headers = WHO | {"Content-Type": "application/json"}
    assert httpx.post(f"{service.url}/{verb}", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("path", ["%00", "%ff%fe", "..%2f..", "%e2%80%ae", "a" * 5000, "é", "//", "%", "?x=1"])
def test_odd_ids_of_uploads_are_not_found(service, path):
    for method in ("HEAD", "PATCH"):
        headers = encoded(TUS | WHO | BODY | {"Upload-Offset": "0"})
        assert asked(service.url, method, f"/uploads/{path}", headers) in (400, 404, 405)


def claims(**changed: object) -> dict[str, object]:
    whole = {"sub": "car-1", "aud": AUDIENCE, "exp": 4e9, "scope": "upload status", "life": 0}
    return whole | changed


def signed(of: dict[str, object]) -> str:
    return jwt.encode({"alg": "HS256"}, of, OctKey.import_key(SECRET))


ODD_CLAIMS = [
    {"life": None}, {"life": "0"}, {"life": 0.0}, {"life": True}, {"life": []}, {"life": 10**30},
    {"sub": None}, {"sub": 7}, {"sub": ""}, {"sub": ["car-1"]},
    {"scope": None}, {"scope": ["upload", "status"]}, {"scope": 1},
    {"exp": None}, {"exp": "4000000000"}, {"exp": True}, {"exp": float("nan")}, {"exp": []},
    {"aud": None}, {"aud": [AUDIENCE]}, {"aud": {}},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_CLAIMS, ids=str)
def test_odd_claims_of_a_signed_token_are_401(service, odd):
    token = signed(claims(**odd))
    assert httpx.get(f"{service.url}/status", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    if odd.get("life") != 10**30:  # that one is well formed, but of a life that has not come
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            bearer_of(SECRET, token)


BITS = st.sampled_from([b"\xff", "ü.ü.ü".encode(), b"e30.e30.e30", b"..", b"W10.W10.", b"bnVsbA.bnVsbA."])


@settings(max_examples=60)
@given(st.one_of(LINE, st.text(alphabet="eyJ.hbGciO_-=", max_size=80).map(str.encode),
                 BITS))  # fmt: skip
def test_odd_tokens_are_401(service, token):
    assert asked(service.url, "GET", "/status", {"Authorization": b"Bearer " + token}) in (400, 401)
    deep = base64.urlsafe_b64encode(b"[" * 40_000).rstrip(b"=")
    assert asked(service.url, "GET", "/status", {"Authorization": b"Bearer " + deep + b".e30.e30"}) == 401
