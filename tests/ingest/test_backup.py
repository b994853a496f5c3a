"""A lost or damaged table of vehicles is detected and restored; revoked vehicles stay revoked."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import invited, serving

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import running
from drivefoundry.ingest.access.backup import copy_of, restore
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry_car.upload.enrol import Credential


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 9 // 10)


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def gone(file: Path) -> None:
    file.unlink()


def hollow(file: Path) -> None:
    """A valid database without rows."""
    with closing(sqlite3.connect(file)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            db.execute(f"DELETE FROM {table}")
        db.commit()


def other(file: Path) -> None:
    """A valid database with other contents."""
    file.unlink()
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE something (x)")
        db.commit()


@pytest.mark.parametrize("damage", [emptied, cut, garbage, gone, hollow, other])
def test_a_lost_table_is_restored_and_cars_continue(tmp_path, damage):
    """A car enrolled and renewed its secret; another was revoked; a third has an unused code."""
    store, file = ClipStore(tmp_path / "store"), tmp_path / "store/incoming/vehicles.db"
    with running(store) as service:
        credential = Credential(service.url, tmp_path / "car-1.json")
        used = invited(tmp_path / "store", "car-1")
        credential.enrol(used)
        token = credential(credential())  # renewed, so that the copy must know the newest secret
        ended = Credential(service.url, tmp_path / "car-2.json")
        ended.enrol(invited(tmp_path / "store", "car-2"))
        dead = ended()
        assert cli.main(["ingest", "revoke", "car-2", "--store", str(tmp_path / "store")]) == 0
        unused = invited(tmp_path / "store", "car-3")
    damage(file)
    damaged = file.read_bytes() if file.exists() else None
    with running(store) as service:
        again = Credential(service.url, credential.file)
        assert httpx.get(f"{service.url}/health").json()["status"] == "ok"
        own = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{service.url}/status", headers=own).json()["vehicle"] == "car-1"
        assert again(token) != token
        assert httpx.get(f"{service.url}/status", headers={"Authorization": f"Bearer {dead}"}).status_code == 401
        for code in (used, unused):
            assert httpx.post(f"{service.url}/enrol", json={"code": code}).status_code == 401
        with pytest.raises(ValueError, match="401"):
            Credential(service.url, ended.file)(dead)
        assert Credential(service.url, tmp_path / "car-3.json").enrol(invited(tmp_path / "store", "car-3")) == "car-3"
    kept = list(file.parent.glob("vehicles.db.damaged-*"))
    assert damaged is None or damaged in [k.read_bytes() for k in kept]


def test_a_revocation_outlives_a_copy_that_does_not_know_of_it(tmp_path):
    """As after a kill between the two writes, or with an older copy restored by an operator."""
    file = tmp_path / "vehicles.db"
    vehicles = Vehicles(file)
    vehicles.secret()
    _, refresh = vehicles.enrol(vehicles.invite("car-1"))
    shutil.copy(copy_of(file), tmp_path / "older")
    _, unknown = vehicles.enrol(vehicles.invite("car-2"))
    vehicles.revoke("car-1")
    vehicles.revoke("car-2")
    vehicles.close()
    shutil.copy(tmp_path / "older", copy_of(file))
    file.unlink()
    assert restore(file) == "is missing"
    vehicles = Vehicles(file)
    for secret in (refresh, unknown):
        with pytest.raises(ValueError, match="revoked"):
            vehicles.rotate(secret)
    assert (vehicles.life("car-1"), vehicles.life("car-2")) == (1, 1)
    vehicles.close()
    for end in ("-wal", "-shm"):
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "older", file)  # an operator puts back an older table by hand
    assert restore(file) == ""
    vehicles = Vehicles(file)
    with pytest.raises(ValueError, match="revoked"):
        vehicles.rotate(refresh)
    vehicle, refresh = vehicles.enrol(vehicles.invite("car-1"))  # and may be invited again
    vehicles.close()
    emptied(file)
    restore(file)
    vehicles = Vehicles(file)
    assert vehicles.rotate(refresh)[0] == vehicle
    vehicles.close()


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with a table and its copy, and the secrets of the cars in it."""
    folder = tmp_path_factory.mktemp("enrolled")
    vehicles = Vehicles(folder / "vehicles.db")
    vehicles.secret()
    secrets = {name: vehicles.enrol(vehicles.invite(name))[1] for name in ("car-1", "car-2", "car-3")}
    vehicles.close()
    return folder, secrets


@settings(max_examples=30)
@given(st.data())
def test_a_damaged_file_is_intact_or_restored_or_refused(enrolled, tmp_path_factory, data):
    """Bytes changed or removed anywhere: cars' secrets are valid afterwards, or one line says what is wrong."""
    folder = tmp_path_factory.mktemp("v")
    file = Path(shutil.copytree(enrolled[0], folder / "copy")) / "vehicles.db"
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at : at + 16] = os.urandom(16)
        else:
            del raw[at + 1 :]
    file.write_bytes(raw)
    restore(file)
    with closing(Vehicles(file)) as vehicles:
        for name, secret in enrolled[1].items():
            try:
                assert vehicles.refreshed(secret) == name
            except ValueError:  # the damage hit this row's text, which no checksum covers
                assert vehicles.life(name) == 0
    shutil.rmtree(folder)


def test_a_damaged_copy_as_well_is_one_line(tmp_path):
    file = tmp_path / "vehicles.db"
    vehicles = Vehicles(file)
    vehicles.secret()
    vehicles.close()
    garbage(file)
    copy_of(file).write_bytes(b"")
    with pytest.raises(ValueError, match=r"vehicles\.db is damaged .*, and its backup vehicles\.backup is empty"):
        restore(file)
    assert file.stat().st_size > 0


def test_operators_verbs_leave_the_restoring_to_the_service(tmp_path, capsys):
    invited(tmp_path, "car-1")
    emptied(tmp_path / "incoming/vehicles.db")
    for verb in (["enrol", "car-2"], ["revoke", "car-1"], ["vehicles"]):
        assert cli.main(["ingest", *verb, "--store", str(tmp_path)]) == 2
        assert "is empty; start the service again: it restores the backup" in capsys.readouterr().err
    assert (tmp_path / "incoming/vehicles.db").read_bytes() == b""


def test_health_tells_of_a_table_that_is_damaged_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("drivefoundry.ingest.access.vehicles.LOOK_S", 0.0)
    file = tmp_path / "incoming/vehicles.db"
    with running(ClipStore(tmp_path)) as service:
        invited(tmp_path, "car-1")
        assert httpx.get(f"{service.url}/health").status_code == 200
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        whole = file.read_bytes()
        cut(file)
        told = httpx.get(f"{service.url}/health")
        assert told.status_code == 503
        assert "the table of vehicles is damaged" in told.json()["status"]
        assert str(tmp_path) not in told.text
        file.write_bytes(whole)
        assert httpx.get(f"{service.url}/health").status_code == 200
        os.replace(file, tmp_path / "moved.db")
        assert "is missing" in httpx.get(f"{service.url}/health").json()["status"]
        os.replace(tmp_path / "moved.db", file)


def test_a_second_service_in_the_folder_is_refused_by_name(tmp_path, capsys):
    with serving(tmp_path) as service:
        assert cli.main(["ingest", "serve", "--store", str(tmp_path), "--port", "0"]) == 2
        said = capsys.readouterr().err
        assert f"another ingest service (process {service.process.pid}) works here" in said
        assert said.count("\n") == 1
        assert httpx.get(f"{service.url}/health").status_code == 200
        service.stop()
    with running(ClipStore(tmp_path)) as service:  # and the lock goes with its holder
        assert httpx.get(f"{service.url}/health").status_code == 200


def test_only_its_owner_reads_the_copy(tmp_path):
    vehicles = Vehicles(tmp_path / "vehicles.db")
    vehicles.secret()
    vehicles.invite("car-1")
    vehicles.revoke("car-1")
    vehicles.close()
    files = [p for p in tmp_path.iterdir() if p.name != "vehicles.db"]
    assert {"vehicles.backup", "vehicles.revoked"} <= {p.name for p in files}
    assert not any(p.stat().st_mode & 0o077 for p in files)
    assert not list(tmp_path.glob("*.part*"))
