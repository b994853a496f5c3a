"""Clip store: versioned table rows and content-addressed video from clip files, and Drives from rows.

Lance's threads do not survive a fork: start worker processes with spawn, and open the store there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa

from drivefoundry.clips import bucket
from drivefoundry.clips.objects import ObjectStore
from drivefoundry.clips.prepared import NAMED, Prepared, prepare
from drivefoundry.clips.row import others_of, unpack
from drivefoundry_car.log import Drive

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"}),
        *((name, pa.string()) for name in NAMED),
        ("landed", pa.timestamp("us", tz="UTC")),
        ("t0", pa.float64()),
        ("duration", pa.float64()),
        ("bytes", pa.int64()),
        ("frames", pa.int32()),
        ("video", pa.string()),
        ("meta", pa.string()),
        ("signals", pa.binary()),
    ]
)
"""id: SHA-256 of the clip's MCAP file; t0, duration: s; bytes: its size; video: SHA-256 of the MP4, '' if none; meta,
signals: the rest of the drive, see `clips.row`."""
_TURN = timedelta(minutes=5)
"""Longest wait of an append for other writers, s."""


class ClipStore:
    """One Lance table of clips (url/clips.lance) and one object store (url/objects); url: a directory or s3://.

    A landed clip never changes. Threads may share a store; processes open their own and may write concurrently: of two
    commits of the same version one is refused (a rename that must not replace; on S3 `If-None-Match: *`) and retried.
    ValueError if a remote store does not answer when opened; ConnectionError if it stops answering.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        self.objects = ObjectStore(f"{self.url}/objects")
        self.objects.reach()
        self._table = f"{self.url.removeprefix('file://')}/clips.lance"
        patience = f"{bucket.PATIENCE.seconds}"
        self._options = {"client_retry_timeout": patience} if bucket.remote(self.url) else None
        self._lock = threading.Lock()
        self._data: lance.LanceDataset | None = None
        self._place: dict[str, int] = {}
        self._placed = 0  # the version that _place belongs to

    def land(self, mcap_paths: Sequence[Path | str]) -> list[str]:
        """Store clip files with a single append; return their ids in order. A clip that is already stored stays as it
        is.

        ValueError names the file that is missing, damaged or not a drive; then none of them lands.
        """
        prepared = [self.prepare(Path(path)) for path in mcap_paths]
        self.append(prepared)
        return [p.id for p in prepared]

    def prepare(self, path: Path) -> Prepared:
        """Check a clip file, store its video and build its row. Nothing is visible until `append`."""
        return prepare(path, self.objects)

    def append(self, prepared: Sequence[Prepared]) -> None:
        """Append prepared clips as rows in one table version; clips that are already stored are skipped."""
        with self._lock:
            data = self._latest()
            new = {p.id: p.row for p in prepared if p.id not in self._place}
            if not new:
                return
            table = pa.Table.from_pylist(list(new.values()), SCHEMA)
            # Another writer may have landed the same clip meanwhile. `id` is declared the primary key, so that such a
            # merge conflicts and is retried on the newer version instead of duplicating the row.
            data = data or self._created()
            with self._reached():
                merge = data.merge_insert("id").when_not_matched_insert_all()
                merge.conflict_retries(20).retry_timeout(_TURN).execute(table)
            self._latest()

    def sync(self) -> None:
        """Make all appended videos and rows durable."""
        self.objects.sync()

    def ids(self) -> list[str]:
        """Ids of all clips, in landing order."""
        with self._lock:
            self._latest()
            return list(self._place)

    def rows(self, columns: list[str] | None = None) -> pa.Table:
        """The table, or some of its columns (see SCHEMA), one row per clip."""
        unknown = sorted(set(columns or []) - set(SCHEMA.names))
        if unknown:
            raise ValueError(f"clip store: no column '{unknown[0]}'; there are {', '.join(SCHEMA.names)}")
        with self._lock:
            data = self._latest()
        if data is None:
            return SCHEMA.empty_table().select(columns or SCHEMA.names)
        with self._reached():
            return data.to_table(columns=columns)

    def drive(self, clip_id: str, video: bool = True) -> Drive:
        """Return one clip as recorded (objects and plans float32); without video, drive.video is None."""
        with self._lock:
            if clip_id not in self._place:
                self._latest()
            if clip_id not in self._place:
                raise ValueError(f"clip {clip_id}: not in {self.url}")
            data, place = self._data, self._place[clip_id]
        assert data is not None
        with self._reached():
            row = data.take([place], columns=["video", "meta", "signals"]).to_pylist()[0]
        mp4 = self.objects.get(row["video"]) if video and row["video"] else None
        others = others_of(row["meta"]) if video else {}
        return unpack(row["meta"], row["signals"], mp4, {name: self.objects.get(sha) for name, sha in others.items()})

    def put_map(self, map_id: str, data: bytes) -> str:
        """Store a map's bytes (`roadmap.save_map`) under the id that drives refer to; return their SHA-256."""
        sha = self.objects.put(data)
        self.objects.set_name(f"maps/{map_id}", sha)
        return sha

    def get_map(self, map_id: str) -> bytes:
        """Return a map's bytes. ValueError if it is not stored."""
        return self.objects.get(self.objects.named(f"maps/{map_id}"))

    @property
    def version(self) -> int:
        """Version of the table, 0 while it is empty; every append increments it."""
        with self._lock:
            data = self._latest()
            return 0 if data is None else data.version

    def _created(self) -> lance.LanceDataset:
        """Create the empty table; only one of several writers succeeds (with write_dataset the second would overwrite
        it)."""
        self.objects.require_commits()
        empty = lance.LanceOperation.Overwrite(SCHEMA, [])
        with self._reached():
            try:
                lance.LanceDataset.commit(self._table, empty, max_retries=0, storage_options=self._options)
            except OSError as error:
                try:
                    return self._opened()
                except ValueError:
                    if bucket.remote(self.url) or "No space left on device" in str(error):
                        raise error from None  # may be retried, unlike a wrong location
                    raise ValueError(f"clip store {self.url}: cannot be created ({error})") from error
            return self._opened()

    def _opened(self) -> lance.LanceDataset:
        return lance.dataset(self._table, storage_options=self._options)

    def _latest(self) -> lance.LanceDataset | None:
        """Open the newest version of the table and index its rows. Called under the lock."""
        with self._reached():
            data = self._data
            if data is None:
                try:
                    data = self._data = self._opened()
                except ValueError as error:
                    if str(error).startswith("Dataset at path") and "was not found" in str(error):
                        return None
                    raise
            else:
                data.checkout_latest()
            if data.version != self._placed:
                ids = data.to_table(columns=["id"])["id"].to_pylist()
                self._place = {clip: i for i, clip in enumerate(ids)}
                self._placed = data.version
        return data

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn a remote table's failures into a ConnectionError of one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            if not bucket.remote(self.url):
                raise
            raise ConnectionError(f"clip store {self.url}: {bucket.reason(error)}") from error
