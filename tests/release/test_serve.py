from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from drivefoundry.release import create_repository
from drivefoundry.release.serve import app


def test_serves_the_repository_and_nothing_beside_it(tmp_path: Path) -> None:
    create_repository(tmp_path / "repo", tmp_path / "keys")
    client = TestClient(app(tmp_path / "repo"))
    answer = client.get("/metadata/timestamp.json")
    assert answer.content == (tmp_path / "repo" / "metadata" / "timestamp.json").read_bytes()
    assert client.get("/.lock").status_code == 404
    assert client.get("/metadata/../../keys/targets.pem").status_code == 404
    assert client.get("/metadata/%2e%2e/%2e%2e/keys/targets.pem").status_code == 404
    with pytest.raises(ValueError, match="no release repository"):
        app(tmp_path / "keys")
