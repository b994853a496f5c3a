"""An operator's one-time code in, short-lived tokens out: a car's standing with one ingest service, kept in a file.

Nothing here reads a clock: a token is used until the service refuses it, then renewed.
"""

from __future__ import annotations

import fcntl
import json
import urllib.error
import urllib.request
from pathlib import Path

from drivefoundry_car.durable import write_json


class Credential:
    """Tokens of one car for `Uploader`. file: where the credential is kept, readable by its owner only.

    Each renewal brings a new refresh secret, and the old one dies with the first use of the new: a kill between the
    two loses nothing. Threads and processes may share the file.
    """

    def __init__(self, server: str, file: Path | str, timeout: float = 30.0) -> None:
        self.server, self.file, self.timeout = server.rstrip("/"), Path(file), timeout

    def enrol(self, code: str) -> str:
        """A one-time code in, the vehicle's name out; the file holds the credential. ValueError if it is refused."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        return self._fetch("/enrol", {"code": code})["vehicle"]

    def __call__(self, stale: str = "") -> str:
        """A token other than the stale one, fetched if need be. ValueError if the service refuses the credential,
        OSError if it cannot be reached."""
        with self.file.with_name(f".{self.file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds the token that the first has fetched
            try:
                kept = json.loads(self.file.read_text())
                token, refresh = kept["token"], kept["refresh"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.file}: no credential ({error}); enrol the vehicle") from error
            return token if token != stale else self._fetch("/token", {"refresh": refresh})["token"]

    def _fetch(self, path: str, body: dict[str, str]) -> dict[str, str]:
        """The service's answer, kept in the file before it is used."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                line = error.read(300).decode(errors="replace").partition("\n")[0]
            if error.code in (400, 401, 403):
                raise ValueError(f"{self.server}: {error.code} {line}") from None
            raise OSError(f"{self.server}: {error.code} {line}") from None
        write_json(self.file, told)
        return told
