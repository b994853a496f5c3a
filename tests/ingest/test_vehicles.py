"""Vehicles enrol once, renew their tokens and are revoked at once; scopes and limits are enforced."""

from __future__ import annotations

import httpx
import pytest
from serving import BODY, about

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Buckets, Limits
from drivefoundry.ingest.access.tokens import bearer_of
from drivefoundry.ingest.access.vehicles import CODE_S, Vehicles
from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader

SECRET = "0123456789abcdef" * 2


@pytest.fixture
def vehicles(tmp_path):
    """The table, on a clock that stands still until set."""
    now = [1_000_000.0]
    table = Vehicles(tmp_path / "vehicles.db", clock=lambda: now[0])
    table.now = now  # pyright: ignore[reportAttributeAccessIssue]
    yield table
    table.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_code_enrols_once_and_not_for_ever(vehicles):
    code = vehicles.invite("car-1")
    vehicle, refresh = vehicles.enrol(code)
    assert (vehicle.name, vehicle.scopes, vehicle.life) == ("car-1", ("upload", "status"), 0)
    with pytest.raises(ValueError, match="used or too old"):
        vehicles.enrol(code)
    late = vehicles.invite("car-1")
    vehicles.now[0] += CODE_S + 1
    with pytest.raises(ValueError, match="used or too old"):
        vehicles.enrol(late)
    assert vehicles.rotate(refresh)[0] == vehicles.all()[0]


def test_of_the_refresh_secrets_the_last_two_are_good_until_the_newest_is_used(vehicles):
    _, first = vehicles.enrol(vehicles.invite("car-1"))
    vehicles.rotate(first)  # its answer is lost
    _, second = vehicles.rotate(first)
    _, third = vehicles.rotate(second)
    with pytest.raises(ValueError, match="replaced or revoked"):
        vehicles.rotate(first)
    vehicles.rotate(third)
    with pytest.raises(ValueError, match="replaced or revoked"):
        vehicles.rotate(second)


def test_revocation_lasts_and_a_new_life_begins_with_a_new_code(vehicles, tmp_path):
    _, refresh = vehicles.enrol(vehicles.invite("car-1"))
    pending = vehicles.invite("car-1")
    vehicles.revoke("car-1")
    again = Vehicles(tmp_path / "vehicles.db")
    assert again.life("car-1") == 1
    for use in (lambda: again.rotate(refresh), lambda: again.enrol(pending)):
        with pytest.raises(ValueError, match=r"again|new one"):
            use()
    again.close()
    vehicle, _ = vehicles.enrol(vehicles.invite("car-1", ["upload"]))
    assert (vehicle.life, vehicle.scopes, vehicle.revoked) == (1, ("upload",), None)


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda v: v.invite("car 1"), "letters, digits"),
        (lambda v: v.invite(""), "letters, digits"),
        (lambda v: v.invite("car-1", ["fly"]), "not 'fly'"),
        (lambda v: v.invite("car-1", []), "upload and status are known"),
        (lambda v: v.revoke("car-1"), "not enrolled here"),
        (lambda _: issue_token(SECRET, "car-1", scopes=["fly"]), "not 'fly'"),
    ],
)
def test_what_cannot_be_is_refused(vehicles, do, says):
    with pytest.raises(ValueError, match=says):
        do(vehicles)


def test_a_file_that_is_no_table_of_vehicles(tmp_path):
    (tmp_path / "vehicles.db").write_text("no database" * 100)
    with pytest.raises(ValueError, match=r"vehicles\.db: cannot store the vehicles"):
        Vehicles(tmp_path / "vehicles.db")


def test_only_its_owner_reads_what_is_kept(vehicles):
    vehicles.secret()
    files = list(vehicles.file.parent.glob("vehicles.db*"))
    assert len(files) == 3  # the log beside it holds what was written last
    assert not any(file.stat().st_mode & 0o077 for file in files)


def test_the_bytes_of_a_day(vehicles):
    vehicles.spend("car-1", 700)
    vehicles.spend("car-1", 300)
    assert (vehicles.spent("car-1"), vehicles.spent("car-2")) == (1000, 0)
    vehicles.now[0] += vehicles.tomorrow_in()
    assert vehicles.spent("car-1") == 0
    vehicles.now[0] -= 86400
    assert vehicles.spent("car-1") == 1000


def test_from_the_operators_code_to_uploaded_clips_and_revocation(tmp_path, make_drive, capsys):
    store = tmp_path / "store"
    at = ["--store", str(store)]
    assert cli.main(["ingest", "enrol", "car-1", *at]) == 0
    code = capsys.readouterr().out.strip()
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    with running(ClipStore(store)) as service:
        credential = Credential(service.url, tmp_path / "car/credential.json")
        assert credential.enrol(code) == "car-1"
        assert (tmp_path / "car/credential.json").stat().st_mode & 0o777 == 0o600
        with pytest.raises(ValueError, match="401 the code is unknown, used"):
            credential.enrol(code)
        uploader = Uploader(service.url, credential, tmp_path / "queue")
        (receipt,) = uploader.send_all([tmp_path / "a.mcap"])
        status = httpx.get(f"{service.url}/status", headers=bearer(credential())).json()
        assert (status["vehicle"], status["bytes_today"], status["bytes_left"]) == ("car-1", receipt.size, None)

        stale = credential()
        fresh = credential(stale)
        assert fresh != stale
        assert credential() == credential(stale) == fresh
        assert cli.main(["ingest", "revoke", "car-1", *at]) == 0
        write_drive(tmp_path / "b.mcap", make_drive(steps=10, seed=1))
        with pytest.raises(ValueError, match="401 the refresh secret is unknown, replaced or revoked"):
            uploader.send_all([tmp_path / "b.mcap"])
        assert len(uploader.outbox.waiting()) == 1
        refused = httpx.get(f"{service.url}/status", headers=bearer(credential()))
        assert (refused.status_code, refused.text) == (401, "the token is revoked; enrol the vehicle again")

        assert cli.main(["ingest", "enrol", "car-1", *at]) == 0
        credential.enrol(capsys.readouterr().out.strip())
        assert len(Uploader(service.url, credential, tmp_path / "queue").send_all()) == 1
    assert cli.main(["ingest", "vehicles", *at]) == 0
    assert capsys.readouterr().out.split()[:2] == ["car-1", "upload,status"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["enrol"], "ingest enrol: give the vehicle's name"),
        (["revoke", "car-1", "--store", "nowhere"], "no vehicles here"),
        (["vehicles", "--store", "s3://bucket"], "is remote; name a local --folder"),
        (["serve", "--clip", "0"], "Limits.clip: must be > 0, got 0"),
        (["serve", "--prot", "1"], "did you mean '--port'?"),
    ],
)
def test_verbs_refuse_in_one_line(capsys, argv, says):
    assert cli.main(["ingest", *argv]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_token_is_good_for_its_scopes_only(tmp_path):
    with running(ClipStore(tmp_path), SECRET) as service:
        only = {name: bearer(issue_token(SECRET, "car-1", scopes=[name])) for name in ("upload", "status")}
        assert httpx.get(f"{service.url}/status", headers=only["status"]).status_code == 200
        refused = httpx.get(f"{service.url}/status", headers=only["upload"])
        assert (refused.status_code, refused.text) == (403, "the token is not for 'status'")
        assert "insufficient_scope" in refused.headers["WWW-Authenticate"]
        (tmp_path / "a.mcap").write_bytes(b"bytes")
        uploader = Uploader(service.url, issue_token(SECRET, "car-1", scopes=["status"]), tmp_path / "queue")
        with pytest.raises(ValueError, match="403 the token is not for 'upload'"):
            uploader.send_all([tmp_path / "a.mcap"])
        assert len(uploader.outbox.waiting()) == 1  # not the clip's fault


def test_claims_of_a_token():
    told = bearer_of(SECRET, issue_token(SECRET, "car-1", scopes=["upload"], life=3))
    assert (told.vehicle, told.scopes, told.life) == ("car-1", ("upload",), 3)


def test_too_many_requests_wait(tmp_path):
    with running(ClipStore(tmp_path), SECRET, limits=Limits(requests=0.5, burst=3)) as service:
        with httpx.Client(base_url=service.url, headers=bearer(issue_token(SECRET, "car-1"))) as client:
            answers = [client.get("/status") for _ in range(5)]
            assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
            assert 1 <= int(answers[-1].headers["Retry-After"]) <= 3
            other = client.get("/status", headers=bearer(issue_token(SECRET, "car-2")))
        assert other.status_code == 200
        guesses = [httpx.post(f"{service.url}/enrol", json={"code": str(i)}).status_code for i in range(4)]
    assert guesses == [401, 401, 401, 429]


def test_buckets_fill_again_and_forget_the_silent():
    buckets = Buckets(rate=1000.0, burst=1)
    assert buckets.wait("a") == 0
    assert 0 < buckets.wait("a") <= 0.001
    for i in range(10_001):
        buckets.wait(str(i))
    assert len(buckets._of) <= 10_000


def test_a_days_bytes_and_a_clips_bytes_are_bounded(tmp_path):
    data = bytes(600)
    with running(ClipStore(tmp_path), SECRET, limits=Limits(day=1000, clip=2000)) as service:
        who = bearer(issue_token(SECRET, "car-1"))

        def put(fill: bytes) -> httpx.Response:
            head = about(fill) | who
            begun = httpx.post(f"{service.url}/uploads", headers=head)
            if begun.status_code != 201:
                return begun
            place = service.url + begun.headers["Location"]
            return httpx.patch(place, content=fill, headers=head | BODY | {"Upload-Offset": "0"})

        assert put(data).status_code == 422  # no clip, but it came, and counts
        spent = put(b"1" * 600)
        assert spent.status_code == 429
        assert 0 < int(spent.headers["Retry-After"]) <= 86400
        assert "day's 1000 bytes" in spent.text
        assert put(b"2" * 2001).status_code == 413
        status = httpx.get(f"{service.url}/status", headers=who).json()
        assert 600 <= status["bytes_today"] <= 1000
        (tmp_path / "a.mcap").write_bytes(b"3" * 600)
        if status["bytes_left"]:
            put(b"4" * status["bytes_left"])
        with pytest.raises(ValueError, match=r"429 the day's 1000 bytes are used up; .* clips wait in"):
            Uploader(service.url, issue_token(SECRET, "car-1"), tmp_path / "queue").send_all([tmp_path / "a.mcap"])


def test_unfinished_uploads_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("drivefoundry.ingest.uploads.MOST", 2)
    with running(ClipStore(tmp_path), SECRET) as service:
        who = bearer(issue_token(SECRET, "car-1"))
        codes = [httpx.post(f"{service.url}/uploads", headers=about(b"x" * n) | who).status_code for n in (1, 2, 3, 2)]
    assert codes == [201, 201, 429, 201]


def test_metrics_count_requests_and_clips(tmp_path, make_drive):
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    with running(ClipStore(tmp_path / "store"), SECRET) as service:
        Uploader(service.url, issue_token(SECRET, "car-1"), tmp_path / "queue").send_all([tmp_path / "a.mcap"])
        httpx.get(f"{service.url}/nowhere")
        service.flush()
        answer = httpx.get(f"{service.url}/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    told = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    prefix = "drivefoundry_ingest_"
    assert told[f"{prefix}acknowledged_total"] == 1
    assert told[f"{prefix}landed"] == 1
    assert told[f'{prefix}requests_total{{route="/uploads",status="201"}}'] == 1
    assert told[f'{prefix}requests_total{{route="other",status="404"}}'] == 1
    assert told[f"{prefix}received_bytes_total"] > 1000
    heads = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
