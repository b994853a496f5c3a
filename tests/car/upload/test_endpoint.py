"""A car talks to servers over TLS, or in plain HTTP on its own machine only."""

from __future__ import annotations

import pytest

from drivefoundry_car.upload.endpoint import checked, first_line
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader


@pytest.mark.parametrize(
    "url",
    [
        "https://clips.example",
        "https://10.0.0.7:8443/fleet/",
        "http://127.0.0.1:80",
        "http://127.8.9.1",
        "http://localhost:8000/a",
        "http://[::1]:80",
        "http://[::ffff:127.0.0.1]",
        "HTTP://LOCALHOST",
    ],
)
def test_servers_that_may_be_used(url):
    assert checked(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://clips.example",
        "http://10.0.0.7:8000",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://[fe80::1]",
        "http://0.0.0.0",
        "http://2130706433",
        "http://127.1",
    ],
)
def test_plain_http_to_elsewhere_must_be_allowed(url, tmp_path):
    for make in (checked, lambda u: Uploader(u, "token", tmp_path / "q"), lambda u: Credential(u, tmp_path / "c.json")):
        with pytest.raises(ValueError, match=r"is plain http, .* https:// URL, or allow it \(insecure_http\)") as e:
            make(url)
        assert "\n" not in str(e.value)
    assert not (tmp_path / "q").exists()
    assert checked(url, insecure_http=True) == url
    assert Uploader(url, "token", tmp_path / "q", insecure_http=True).server == url
    assert Credential(url, tmp_path / "c.json", insecure_http=True).server == url


@pytest.mark.parametrize(
    "url",
    ["", "clips.example", "ftp://a", "https://", "https://[::1", "https://a:99999", "https://u:p@a", "https://a?b"],
)
def test_an_invalid_server_is_named(url):
    with pytest.raises(ValueError, match=r"server: '.*give https://host"):
        checked(url, insecure_http=True)


def test_what_others_say_fits_a_line():
    assert first_line("\n  \r\n<html>\x1b[31m" + "x" * 10_000 + "\nmore") == ("<html> [31m" + "x" * 10_000)[:200]
    assert first_line("") == ""
