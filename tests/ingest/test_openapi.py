"""The service conforms to its OpenAPI description: requests generated from it get the documented answers."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving import about

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.vehicles import Vehicles

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance  # noqa: E402

SECRET = "0123456789abcdef" * 2
DATA = b"123456789"


@schemathesis.serializer("application/offset+octet-stream")
def raw_bytes(_, value):
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(ClipStore(tmp_path_factory.mktemp("store")), SECRET, limits=Limits(requests=1e6, burst=10**6)) as it:
        yield it


@pytest.fixture(scope="module")
def contract(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {issue_token(SECRET, 'car-1')}"}


ROUTES = [
    ("GET", "/health"), ("GET", "/metrics"), ("POST", "/enrol"), ("POST", "/token"), ("GET", "/status"),
    ("POST", "/have"), ("OPTIONS", "/uploads"), ("POST", "/uploads"), ("HEAD", "/uploads/{name}"),
    ("PATCH", "/uploads/{name}"),
]  # fmt: skip


def test_every_route_is_described(service):
    told = httpx.get(f"{service.url}/openapi.json").json()
    assert {(method.upper(), path) for path, item in told["paths"].items() for method in item} == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_answers_are_those_of_the_contract(method, path, contract, service):
    route = contract[path][method]
    begun = httpx.post(f"{service.url}/uploads", headers=about(DATA) | bearer()).headers["Location"].rpartition("/")[2]
    # What a schema cannot say: that the base64 in Upload-Metadata is that of hex digits.
    spared = [positive_data_acceptance] if "/uploads" in path else []

    def right(case, known, signed):
        if known and "name" in case.path_parameters:
            case.path_parameters["name"] = begun
        headers = bearer() if signed else {"Authorization": "Bearer none"}
        answer = case.call_and_validate(headers=headers, excluded_checks=spared)
        assert signed or "security" not in route.definition.raw or answer.status_code == 401

    def wrong(case):
        headers = {} if "Authorization" in (case.headers or {}) else bearer()  # that may be what is wrong
        answer = case.call_and_validate(headers=headers, excluded_checks=[negative_data_rejection])
        assert 400 <= answer.status_code < 500

    few = settings(max_examples=25, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    cases = route.as_strategy(generation_mode=GenerationMode.POSITIVE)
    few(given(case=cases, known=st.booleans(), signed=st.sampled_from([True, True, False]))(right))()
    if "parameters" in route.definition.raw or "requestBody" in route.definition.raw:
        few(given(case=route.as_strategy(generation_mode=GenerationMode.NEGATIVE))(wrong))()


def test_a_good_answer_of_every_route_is_described(contract, service):
    vehicles = Vehicles(service.landing.folder.parent / "vehicles.db")
    code = vehicles.invite("car-9")
    vehicles.close()
    enrolled = contract["/enrol"]["POST"].Case(body={"code": code}, media_type="application/json")
    answer = enrolled.call_and_validate()
    assert answer.status_code == 200
    refresh = answer.json()["refresh"]
    renewed = contract["/token"]["POST"].Case(body={"refresh": refresh}, media_type="application/json")
    assert renewed.call_and_validate().status_code == 200
    for path in ("/health", "/metrics", "/status"):
        assert contract[path]["GET"].Case().call_and_validate(headers=bearer()).status_code == 200
    assert contract["/uploads"]["OPTIONS"].Case().call_and_validate().status_code == 204
