"""A signed repository in, the release that the car runs out: verified download into A/B slots.

Trust starts at the root.json that the car was shipped with; from there every byte is verified as The Update Framework
(TUF 1.0) says, by `tuf.ngclient`. Whatever goes wrong before the new release has passed its self test leaves the
running one as it was, and says so in one line.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from tuf.api import exceptions
from tuf.ngclient import Updater as TufClient
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
from urllib3.exceptions import HTTPError

from drivefoundry_car.durable import sync
from drivefoundry_car.slots import Installed, Slots, files_of, self_test

CHANNEL = "current.json"
"""TUF target that names each cohort's release: {"cohorts": {cohort: {"release", "rollout_percent", "previous"}}}."""
EVERYONE = "all"
"""The cohort of cars whose own cohort has no release."""


def target_path(release: str, name: str) -> str:
    """The TUF target path of one file of a release."""
    return f"releases/{release}/{name}"


def in_rollout(release: str, vehicle: str, percent: int) -> bool:
    """Whether a vehicle is among the first `percent` of its cohort to get a release: the same answer every time."""
    return int(hashlib.sha256(f"{release}:{vehicle}".encode()).hexdigest()[:8], 16) % 100 < percent


class Updater:
    """Keeps one car's slots up to date; `slots` has `current`, `boot` and `rollback`."""

    def __init__(
        self,
        metadata_dir: str | Path,
        slots_dir: str | Path,
        source: str | Path,
        root: bytes,
        *,
        vehicle: str = "",
        cohort: str = EVERYONE,
        test: Callable[[Path], None] = self_test,
    ):
        """source: the repository's directory, or its http(s) URL; root: the shipped root.json; vehicle and cohort
        decide what is offered; test: raises ValueError for an engine directory that must not run.
        """
        self.metadata_dir = Path(metadata_dir)
        self.metadata_dir.mkdir(parents=True, exist_ok=True)
        self.slots = Slots(slots_dir, test)
        self.source = str(source).rstrip("/")
        self.root, self.vehicle, self.cohort = root, vehicle, cohort

    def update(self) -> Installed | None:
        """Fetch, verify, test and activate what the repository offers this car; what runs then, None if nothing does.

        ValueError, with the running release unchanged: a wrong signature or hash, expired or older metadata, a download
        that breaks off, a full disk, a release that fails its self test (it is not tried again).
        """
        with self.slots.alone(), one_line(self.source, self.slots):
            client = self._client()
            client.refresh()
            offer = self._offer(client)
            if offer is None or self.slots.runs(offer):
                return self.slots.current()
            return self.slots.install(offer, lambda aside: self._fetch(client, offer, aside))

    def _client(self) -> TufClient:
        local = "://" not in self.source
        if local and not (Path(self.source) / "metadata").is_dir():
            raise ValueError(f"{self.source}: no release repository (no metadata/ in it); give its directory or URL")
        base = Path(self.source).resolve().as_uri() if local else self.source
        return TufClient(
            str(self.metadata_dir),
            f"{base}/metadata/",
            target_base_url=f"{base}/targets/",
            fetcher=Fetcher(self.slots.folder),
            bootstrap=self.root,
        )

    def _offer(self, client: TufClient) -> str | None:
        """The release meant for this car, None for none."""
        with tempfile.TemporaryDirectory(dir=self.slots.folder) as aside:
            channel: dict[str, Any] = json.loads(self._get(client, CHANNEL, Path(aside) / CHANNEL).read_text())
        entry = channel["cohorts"].get(self.cohort) or channel["cohorts"].get(EVERYONE)
        if entry is None:
            return None
        chosen = in_rollout(entry["release"], self.vehicle, entry["rollout_percent"])
        return entry["release"] if chosen else entry["previous"]

    def _get(self, client: TufClient, target: str, to: Path) -> Path:
        info = client.get_targetinfo(target)
        if info is None:
            raise ValueError(f"{self.source}: the signed targets do not list {target}; publish the release again")
        if client.find_cached_target(info, str(to)) is None:
            client.download_target(info, str(to))
            sync(to)
        return to

    def _fetch(self, client: TufClient, release: str, aside: Path) -> None:
        """Bring every file of a release to a directory; whole files that a broken download left there are kept."""
        files = files_of(self._get(client, target_path(release, "release.json"), aside / "release.json"))
        for old in [p for p in aside.rglob("*") if p.is_file()]:
            if old.relative_to(aside).as_posix() not in {"release.json", *files}:
                old.unlink()
        for name in files:
            self._get(client, target_path(release, name), aside / name)
        for folder in {aside, *(p for p in aside.rglob("*") if p.is_dir())}:
            sync(folder)


class Fetcher(Urllib3Fetcher):
    """Reads file:// beside http(s)://, and keeps what it fetches on the slots' disk: a car's /tmp is small."""

    def __init__(self, aside: Path):
        super().__init__()
        self._aside = aside

    def _fetch(self, url: str) -> Iterator[bytes]:
        if not url.startswith("file://"):
            return super()._fetch(url)
        path = Path(unquote(urlparse(url).path))
        if not path.is_file():
            raise exceptions.DownloadHTTPError(f"{path} is not there", 404)
        return _pieces(path)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO]:
        with tempfile.TemporaryFile(dir=self._aside) as file:
            size = 0
            for chunk in self.fetch(url):
                size += len(chunk)
                if size > max_length:
                    raise exceptions.DownloadLengthMismatchError(f"{url} has more than the {max_length} bytes signed")
                file.write(chunk)
            file.seek(0)
            yield file


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
    except OSError as e:
        raise exceptions.DownloadError(f"{path}: {e.strerror}") from e


@contextmanager
def one_line(source: str, slots: Slots) -> Iterator[None]:
    """Every way in which an update can fail becomes one ValueError line that names the repository and the mend."""
    try:
        yield
    except exceptions.UnsignedMetadataError as e:
        raise ValueError(f"{source}: signature refused: {e}; it was not signed by the keys this car trusts") from e
    except exceptions.ExpiredMetadataError as e:
        raise ValueError(f"{source}: {e}; renew the repository's metadata") from e
    except exceptions.BadVersionNumberError as e:
        raise ValueError(f"{source}: older than what this car has seen ({e}); an old copy is being served") from e
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as e:
        raise ValueError(f"{source}: wrong hash or length: {e}; publish the release again") from e
    except exceptions.RepositoryError as e:
        raise ValueError(f"{source}: damaged metadata: {e}; publish the release again") from e
    except (exceptions.DownloadError, HTTPError) as e:
        raise ValueError(f"{source}: download failed: {e}; check the connection and update again") from e
    except OSError as e:
        shutil.rmtree(slots.next, ignore_errors=True)  # a full disk needs the room back
        raise ValueError(f"{slots.folder}: cannot write ({e.strerror or e}); free some space and update again") from e
