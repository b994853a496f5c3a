"""Update a car from a signed repository: verified download into A/B slots.

Trust starts at the root.json that the car was shipped with; from there `tuf.ngclient` verifies every byte according to
The Update Framework (TUF 1.0). Any failure before the new release has passed its self-test leaves the running one
unchanged, and is reported in one line. A car can boot at any time during an update.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tuf.api import exceptions
from tuf.ngclient import Updater as TufClient
from urllib3.exceptions import HTTPError

from drivefoundry_car.durable import sync
from drivefoundry_car.update import proof
from drivefoundry_car.update.fetch import Fetcher
from drivefoundry_car.update.proof import target_path
from drivefoundry_car.update.selftest import self_test
from drivefoundry_car.update.slotfiles import Installed, files_of, sweep
from drivefoundry_car.update.slots import INSTALL_WAIT_S, Slots
from drivefoundry_car.upload.endpoint import checked

CHANNEL = "current.json"
"""TUF target that names each cohort's release: {"cohorts": {cohort: {"release", "rollout_percent", "previous",
"halted"}}, "published": {release: number}}. A release's number increases with each publication."""
EVERYONE = "all"
"""Fallback cohort for cars whose own cohort has no release."""


class Offer(NamedTuple):
    """What a repository offers a car. published: number of the release's publication, 0 if unknown."""

    release: str
    published: int


def in_rollout(release: str, vehicle: str, percent: int) -> bool:
    """Whether a vehicle is among the first `percent` of its cohort to get a release, deterministically.

    A car without a name comes last: it gets the release at 100 %.
    """
    if not vehicle:
        return percent >= 100
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
        insecure_http: bool = False,
    ):
        """source: the repository's directory or URL; root: the shipped root.json; vehicle and cohort select the offer;
        test: raises ValueError for an engine directory that must not run; insecure_http: see `endpoint.checked`.
        ValueError for a URL that a car must not use.
        """
        if "://" in str(source):
            source = checked(str(source), insecure_http, "source")
        self.metadata_dir = Path(metadata_dir)
        self.metadata_dir.mkdir(parents=True, exist_ok=True)
        self.slots = Slots(slots_dir, test, root=root)
        self.source = str(source).rstrip("/")
        self.root, self.vehicle, self.cohort = root, vehicle, cohort
        if not (self.slots.folder / proof.FOLDER).exists():  # slots of an older layout: their lists are still here
            self._vouch(lambda release: True)

    def update(self) -> Installed | None:
        """Fetch, verify, test and activate what the repository offers this car; return what runs then, if anything.

        ValueError, with the running release unchanged: a wrong signature or hash, expired or older metadata, a download
        that breaks or is too slow, a full disk, a release that fails its self-test or was refused earlier.
        """
        with self.slots.fetching(INSTALL_WAIT_S), one_line(self.source, self.slots):
            sweep(self.metadata_dir)
            client = self._client()
            client.refresh()
            kept = self._vouch(lambda release: client.get_targetinfo(target_path(release, "release.json")) is not None)
            offer = self._offer(client)
            if offer is None or self.slots.runs(offer.release):
                return self.slots.current()
            return self.slots.install(
                offer.release, lambda aside: self._fetch(client, offer.release, aside), offer.published, kept
            )

    def _vouch(self, listed: Callable[[str], bool]) -> dict[str, Any]:
        """Give the slots the newest signed list of files, and return it."""
        try:
            kept = proof.proof_of(self.metadata_dir)
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # a car that has never been updated
        self.slots.vouch(listed, kept)
        return kept

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

    def _offer(self, client: TufClient) -> Offer | None:
        """The release for this car; None to keep what it has."""
        channel: dict[str, Any] = json.loads(self._get(client, CHANNEL, self.metadata_dir / CHANNEL).read_text())
        entry = channel["cohorts"].get(self.cohort) or channel["cohorts"].get(EVERYONE)
        if entry is None:
            return None
        release = entry["release"]
        chosen = in_rollout(release, self.vehicle, entry["rollout_percent"])
        if not chosen or (entry.get("halted") and not self._has(release)):
            release = entry["previous"]
        return None if release is None else Offer(release, channel.get("published", {}).get(release, 0))

    def _has(self, release: str) -> bool:
        """Whether the current slot claims to hold a release, complete or not."""
        slot = self.slots.slot()
        return slot is not None and self.slots.id_in(slot) == release

    def _get(self, client: TufClient, target: str, to: Path) -> Path:
        info = client.get_targetinfo(target)
        if info is None:
            raise ValueError(f"{self.source}: the signed targets do not list {target}; publish the release again")
        if client.find_cached_target(info, str(to)) is None:
            client.download_target(info, str(to))
            sync(to)
        return to

    def _fetch(self, client: TufClient, release: str, aside: Path) -> None:
        """Fetch every file of a release into a directory; complete files of an interrupted download are kept."""
        files = files_of(self._get(client, target_path(release, "release.json"), aside / "release.json"))
        for old in [p for p in aside.rglob("*") if p.is_file()]:
            if old.relative_to(aside).as_posix() not in {"release.json", *files}:
                old.unlink()
        for name in files:
            self._get(client, target_path(release, name), aside / name)
        for folder in {aside, *(p for p in aside.rglob("*") if p.is_dir())}:
            sync(folder)


@contextmanager
def one_line(source: str, slots: Slots) -> Iterator[None]:
    """Turn every failure of an update into a ValueError of one line that names the repository and the fix."""
    try:
        yield
    except exceptions.UnsignedMetadataError as e:
        raise ValueError(f"{source}: signature refused: {e}; it was not signed by the keys this car trusts") from e
    except exceptions.ExpiredMetadataError as e:
        raise ValueError(f"{source}: {e}; renew the repository's metadata") from e
    except exceptions.BadVersionNumberError as e:
        why = "an old copy is being served, or a stolen key was used to look newer: rotate the online keys"
        raise ValueError(f"{source}: older than what this car has seen ({e}); {why}") from e
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as e:
        raise ValueError(f"{source}: wrong hash or length: {e}; publish the release again") from e
    except exceptions.RepositoryError as e:
        raise ValueError(f"{source}: damaged metadata: {e}; publish the release again") from e
    except (exceptions.DownloadError, HTTPError) as e:
        raise ValueError(f"{source}: download failed: {e}; check the connection and update again") from e
    except OSError as e:
        shutil.rmtree(slots.next, ignore_errors=True)  # free the space on a full disk
        full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space" if full else "check the file's type and permissions"
        where = slots.folder if full or not e.filename else e.filename2 or e.filename
        raise ValueError(f"{where}: cannot write ({e.strerror or e}); {fix} and update again") from e
