"""Only the ingest service decides about clips and credentials; answers of proxies and portals mean: later."""

from __future__ import annotations

import base64
import json
import re
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.outbox import Note, Outbox
from drivefoundry_car.upload.uploader import Uploader, UploadLimits
from portal import TUS, Answer, portal

GAVE_UP = re.compile("gave up after [12] attempts")
"""One, where another connection has given up first."""
PAGE = b"<html>\n<p>please log in</p></html>"
DEEP = b"[" * 60_000


def queue_of(folder, count=3):
    """An outbox with some clips in it."""
    box = Outbox(folder / "queue")
    for i in range(count):
        (folder / "made.mcap").write_bytes(b"clip %d " % i * 50)
        box.put(folder / "made.mcap", Note("night", i))
    return box


def send(url, folder, token="token"):
    """Error message of sending the queue; '' if there is none."""
    limits = UploadLimits(chunk=100, timeout=5.0, attempts=2, backoff=0.001)
    said = ""
    try:
        Uploader(url, token, folder / "queue", limits).send_all()
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600
    return said


@pytest.mark.parametrize(
    "answer",
    [
        *(
            Answer(status, {}, PAGE)
            for status in (200, 201, 400, 401, 403, 404, 407, 413, 422, 429, 451, 500, 502, 511)
        ),
        Answer(302, {"Location": "http://portal.example/login"}),
        Answer(307, {"Location": "/login"}),
        Answer(204),
        Answer(403, {"Content-Type": "text/plain"}, b"blocked by policy"),
        Answer(413, {"Content-Type": "text/plain", "Tus-Resumable": "0.2.2"}, b"too large"),
        Answer(201, {"Location": "/uploads/1", "Upload-Offset": "0"}),
        Answer(200, {"Content-Type": "application/json"}, b'{"error": "log in"}'),
        Answer(200, {"Content-Type": "application/json"}, DEEP),
        Answer(200, {}, b"\xff\xfe" + b"x" * 3_000_000),
    ],
    ids=lambda a: f"{a.status}-{len(a.body)}-{len(a.headers)}",
)
def test_no_answer_of_a_portal_touches_a_clip(tmp_path, answer):
    box = queue_of(tmp_path)
    before = box.waiting()
    with portal(lambda *_: answer) as url:
        assert re.search(
            "gave up after [12] attempts", send(url, tmp_path)
        )  # the other connection may have given up first
    assert box.waiting() == before
    assert box.refused() == []


def test_a_portal_that_echoes_every_hash_takes_no_clip(tmp_path):
    """It acknowledges everything that is requested, in /have and in uploads that are created or continued."""
    box = queue_of(tmp_path)
    before = box.waiting()

    def echo(method, path, headers, body):
        if path == "/have":
            return Answer(
                200, {"Content-Type": "application/json"}, json.dumps({"have": json.loads(body)["sha256"]}).encode()
            )
        sha = base64.b64decode(headers.get("upload-metadata", "sha256 ").split()[1].split(",")[0]).decode()
        said = {"Location": f"/uploads/{sha}", "Upload-Offset": headers["upload-length"], "Clip-Sha256": sha}
        return Answer(201, said)

    with portal(echo) as url:
        assert "not from the ingest service" in send(url, tmp_path)
    assert box.waiting() == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Offset": "0"},
        {"Location": ""},
        {"Location": "//elsewhere/uploads/1", "Upload-Offset": "0"},
        {"Location": "http://[::1/uploads", "Upload-Offset": "0"},
        {"Location": "uploads/1", "Upload-Offset": "0"},
        {"Location": "/up loads/1", "Upload-Offset": "0"},
        *({"Location": "/uploads/1", "Upload-Offset": o} for o in ("", "-1", "1e3", "+5", "9" * 30, "\u0663", "99999")),
    ],
)
def test_a_service_that_answers_nonsense_is_retried_later(tmp_path, headers):
    box = queue_of(tmp_path, 1)
    headers = {k: v.encode().decode("latin-1") for k, v in headers.items()}
    with portal(lambda *_: Answer(201, TUS | headers)) as url:
        assert re.search(
            "gave up after [12] attempts", send(url, tmp_path)
        )  # the other connection may have given up first
    assert len(box.waiting()) == 1


@pytest.mark.parametrize("stuck", ["0", "100", "last"])
def test_a_service_that_never_acknowledges_is_given_up(tmp_path, stuck):
    """It takes every byte, and reports no progress each time, or completion but no acknowledgement."""
    box, asked = queue_of(tmp_path, 1), []
    size = str(box.waiting()[0].size)

    def ask(method, path, headers, body):
        asked.append(method)
        if method == "POST":
            return Answer(201, TUS | {"Location": "/uploads/1", "Upload-Offset": "0"})
        there = str(int(headers["upload-offset"]) + len(body)) if stuck == "last" else stuck
        return Answer(204, TUS | {"Upload-Offset": there if int(there) <= int(size) else size})

    with portal(ask) as url:
        assert "is not acknowledged" in send(url, tmp_path)
    assert len(box.waiting()) == 1
    assert len(asked) < 40


def test_a_refusal_counts_if_it_is_the_services(tmp_path):
    box = queue_of(tmp_path, 2)
    says = {"Content-Type": "text/plain; charset=utf-8"}
    with portal(lambda *_: Answer(413, TUS | says, PAGE)) as url:
        assert "413 <html>" in send(url, tmp_path)
    assert (len(box.waiting()), box.refused()) == (2, [])
    with portal(lambda *_: Answer(413, TUS | says, b"too large; cut it")) as url:
        assert "413 too large; cut it" in send(url, tmp_path)
    assert box.waiting() == []
    assert [(r.note.campaign, r.why.endswith("413 too large; cut it")) for r in box.refused()] == [("night", True)] * 2


def test_a_proxys_401_does_not_use_up_the_refresh_secret(tmp_path):
    queue_of(tmp_path, 1)
    stale = []
    with portal(lambda *_: Answer(401, {"WWW-Authenticate": "Basic"}, PAGE)) as url:
        said = send(url, tmp_path, token=lambda old: stale.append(old) or "token")
    assert "gave up after 2 attempts" in said
    assert stale == [""]


ANSWERS = st.builds(
    Answer,
    st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 409, 413, 422, 429, 460, 500, 503, 507]),
    st.fixed_dictionaries(
        {},
        optional={
            "Location": st.sampled_from(["/uploads/1", "http://a/uploads/1", "x", "//", ""]),
            "Upload-Offset": st.sampled_from(["0", "100", "400", "-1", "9" * 20, "x"]),
            "Retry-After": st.sampled_from(["0", "99999", "soon", "-1", "9" * 400]),
            "WWW-Authenticate": st.just("Bearer"),
            "Content-Type": st.sampled_from(["text/plain", "text/html", "application/json"]),
            "Tus-Resumable": st.sampled_from(["1.0.0", "2.0.0", ""]),
            "Clip-Sha256": st.sampled_from(["0" * 64, "", "true"]),
        },
    ),
    st.sampled_from([b"", b"no", PAGE, DEEP, b"null", b'{"have": 3}', b'{"have": [[], 1, null]}']),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=4))
def test_no_answer_loses_a_clip(tmp_path_factory, answers):
    """A clip leaves the queue only for the folder 'refused', and only by a plain refusal that carries Tus-Resumable."""
    folder, given_out = tmp_path_factory.mktemp("q"), []
    box = queue_of(folder, 2)
    before = {q.sha256 for q in box.waiting()}

    def ask(*_):
        given_out.append(answers[len(given_out) % len(answers)])
        return given_out[-1]

    with portal(ask) as url:
        assert send(url, folder)
    refused = {r.sha256 for r in box.refused()}
    assert {q.sha256 for q in box.waiting()} | refused == before
    final = [a for a in given_out if a.status in (403, 413, 422) and a.headers.get("Tus-Resumable") == "1.0.0"
             and a.headers.get("Content-Type") == "text/plain"]  # fmt: skip
    assert len(refused) <= len(final)


OLD = {"vehicle": "car-1", "token": "old", "refresh": "secret"}
NEW = {"vehicle": "car-1", "token": "new", "refresh": "next", "scopes": ["upload"], "expires_in": 3600}
NO_CREDENTIALS = [
    *(Answer(200, {}, b) for b in (b"", b"{}", b"[]", b"null", b'"text"', b"3", b'{"error": 1}', PAGE, DEEP, b"\xff")),
    *(Answer(200, {}, json.dumps(NEW | wrong).encode())
      for wrong in ({"token": ""}, {"token": None}, {"refresh": 5}, {"refresh": "a\nb"}, {"token": "\u00e9"},
                    {"vehicle": ""}, {"token": ["x"]}, {"token": "x" * 9000})),
    Answer(200, {}, json.dumps(NEW | {"pad": "x" * 100_000}).encode()),
    Answer(204),
    *(Answer(status, {}, PAGE) for status in (400, 401, 403, 404, 407, 413, 429, 500, 511)),
    Answer(302, {"Location": "https://portal.example/"}),
    Answer(302, {"Location": "http://[::1"}),
    Answer(429, TUS, b"slow down"),
]  # fmt: skip


@pytest.mark.parametrize("answer", NO_CREDENTIALS, ids=lambda a: f"{a.status}-{a.body[:24]!r}")
def test_an_invalid_credential_leaves_the_old_one(tmp_path, answer):
    file = tmp_path / "credential.json"
    file.write_text(json.dumps(OLD))
    with portal(lambda *_: answer) as url:
        with pytest.raises(OSError, match=r"\S") as refused:
            Credential(url, file)("old")
        assert "\n" not in str(refused.value)
        with pytest.raises(OSError, match=r"\S"):
            Credential(url, tmp_path / "new" / "credential.json").enrol("code")
    assert json.loads(file.read_text()) == OLD
    assert not (tmp_path / "new" / "credential.json").exists()


def test_another_vehicles_credential_is_not_taken(tmp_path):
    file = tmp_path / "credential.json"
    file.write_text(json.dumps(OLD))
    answer = Answer(200, {}, json.dumps(NEW | {"vehicle": "car-2"}).encode())
    with portal(lambda *_: answer) as url, pytest.raises(OSError, match="another vehicle than 'car-1'"):
        Credential(url, file)("old")
    assert json.loads(file.read_text()) == OLD


def test_a_portal_before_the_tokens_is_later_for_the_uploader_too(tmp_path):
    box, file = queue_of(tmp_path, 1), tmp_path / "credential.json"
    file.write_text(json.dumps(OLD))

    def ask(method, path, headers, body):
        return (
            Answer(200, {}, b"{}")
            if path == "/token"
            else Answer(401, TUS | {"WWW-Authenticate": "Bearer"}, b"expired")
        )

    with portal(ask) as url:
        assert "gave up after 2 attempts" in send(url, tmp_path, token=Credential(url, file))
    assert (len(box.waiting()), json.loads(file.read_text())) == (1, OLD)


def test_a_credential_replaces_the_old_one_and_only_its_owner_reads_it(tmp_path):
    file = tmp_path / "credential.json"
    file.write_text(json.dumps(OLD))
    (tmp_path / ".credential.json.1-2.part").write_text("a kill left this")
    with portal(lambda *_: Answer(200, {}, json.dumps(NEW).encode())) as url:
        assert Credential(url, file)("old") == "new"
    assert json.loads(file.read_text()) == NEW
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == [".credential.json.lock", "credential.json"]


@pytest.mark.parametrize("answer", [Answer(401, TUS, b"revoked"), Answer(400, TUS, b"what?"), Answer(403, TUS, b"no")])
def test_the_services_refusal_of_a_credential_is_final(tmp_path, answer):
    file = tmp_path / "credential.json"
    file.write_text(json.dumps(OLD))
    with portal(lambda *_: answer) as url, pytest.raises(ValueError, match=answer.body.decode().replace("?", ".")):
        Credential(url, file)("old")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "[" * 60_000, '{"token": 1, "refresh": "a"}', '{"token": "a"}']
)
def test_a_file_that_is_not_a_credential_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    for file in (tmp_path / "c.json", tmp_path / "none" / "c.json"):
        with pytest.raises(ValueError, match=r"c\.json: no credential .*; enrol the vehicle"):
            Credential("https://clips.example", file)()
