"""Clips from drives: each car selects clips by its campaigns and uploads them to the ingest service."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import origins_in
from drivefoundry.ingest.access.tokens import issue_token
from drivefoundry.ingest.server import running
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.progress import bar
from drivefoundry.roadmap import load_map
from drivefoundry.stages.context import RunContext
from drivefoundry_car.documents import decoded, read_bytes
from drivefoundry_car.durable import write_text
from drivefoundry_car.log import read_drive
from drivefoundry_car.log.drive import read_meta
from drivefoundry_car.recording.cutter import record_drive
from drivefoundry_car.triggers import Campaign, load_campaigns, note_for
from drivefoundry_car.triggers.signals import SignalContext
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

CARS_AT_ONCE = 4


def ingest(line: RunContext, turn: int | None, drives: Artefact, apart: str = "exam") -> Artefact:
    """Upload the drives' clips; those of the exam by the campaigns that ship."""
    seed, own = line.seed("campaigns", line.recipe.fleet.seed), line.recipe.campaigns if turn else ""
    name = "ingest" if turn else apart
    recipe = {"seed": seed} | ({"campaigns": decoded(read_bytes(Path(own)), own)} if own else {})

    def build(out: Path) -> dict:
        return send_home(drives.path, line.store, seed, out, campaigns_of(own), mixed=not turn)

    return line.make(turn, "ingest", name, recipe, [drives], build)


def campaigns_of(own: str) -> list[Campaign]:
    """The campaigns of a file ('' for none) plus those that ship; on equal names, the file's replace them."""
    named = {c.name: c for c in load_campaigns()}
    return [*(named | {c.name: c for c in load_campaigns(own)}).values()] if own else [*named.values()]


def send_home(
    drives: Path, store_url: str, seed: int, out: Path, campaigns: list[Campaign], *, mixed: bool = False
) -> dict:
    """Upload the clips of a folder of drives (with maps/); writes clips.json (ids by drive and time, and how many each
    campaign collected) to out. The bytes go to the store.

    Each recording is one day of its car: clips beyond a campaign's bytes_per_day are dropped, least valuable first.
    mixed: list the clips in a random order drawn from the seed, since a judgement may use only the first ones.
    """
    fresh(out)
    store = ClipStore(store_url)
    paths = sorted((drives / "drives").glob("*.mcap"))
    recorded = sum(p.stat().st_size for p in paths)
    maps = {file.stem: file.read_bytes() for file in sorted((drives / "maps").glob("*.safetensors"))}
    context = {name: SignalContext(load_map(data).stop_lines) for name, data in maps.items()}
    secret = secrets.token_hex(32)
    start = time.monotonic()
    with running(store, secret) as service, bar("clips home", len(paths)) as advance:
        for name, data in maps.items():
            store.put_map(name, data)
        cars = _Cars(campaigns, seed, context, out / ".queues", service.url, secret)
        brought: Counter[str] = Counter()
        over = 0
        with ThreadPoolExecutor(CARS_AT_ONCE) as several:
            for home, left in several.map(cars.upload, paths):
                brought.update(home)
                over += left
                advance()
        ids = service.flush()
    ids = in_order(store_url, ids)
    if mixed:
        random.Random(seed).shuffle(ids)
    rows = store.rows(["id", "bytes"]).to_pydict()
    size = dict(zip(rows["id"], rows["bytes"], strict=True))
    sent = sum(size[i] for i in ids)
    write_json(out / "clips.json", {"clips": ids, "campaigns": dict(sorted(brought.items()))})
    return {
        "clips": len(ids),
        "campaigns": dict(sorted(brought.items())),
        "over_budget": over,
        "recorded_bytes": recorded,
        "sent_bytes": sent,
        "upload_seconds": time.monotonic() - start,
    }


class _Cars(NamedTuple):
    """What cars need to record clips and upload them to a service."""

    campaigns: list[Campaign]
    seed: int
    context: dict[str, SignalContext]
    """By map."""
    queues: Path
    url: str
    secret: str

    def upload(self, path: Path) -> tuple[list[str], int]:
        """Upload all clips of one recording, most valuable first, from its own queue.

        Returns the campaigns of the clips that arrived, and the number of clips over budget.
        """
        drive = read_drive(path)
        spool = self.queues / f"{path.stem}.spool"
        spool.parent.mkdir(exist_ok=True)
        clips = record_drive(drive, self.campaigns, self.seed, spool, self.context.get(drive.meta.get("map", "")))
        if not clips:
            return [], 0
        # One clip at a time, on an endless day, so that what a budget allows depends on the clips alone.
        token = issue_token(self.secret, drive.meta["vehicle"])
        car = Uploader(self.url, token, self.queues / path.stem, UploadLimits(connections=1), clock=lambda: 0.0)
        of = {}
        for clip in clips:
            name = read_meta(clip)["campaign"]
            of[car.enqueue(clip, note_for(name, self.campaigns))] = name
        home = [of[receipt.sha256] for receipt in car.send_all()]
        return home, len(of) - len(home)


def in_order(store_url: str, ids: list[str]) -> list[str]:
    """Sort clips by drive and time.

    Training must not follow the order of ids: they hash every byte, including the name of the release that drove, and
    the order of samples affects the result of a training.
    """
    origins = origins_in(store_url, ids)
    return sorted(ids, key=lambda i: (origins[i].drive, origins[i].t0, origins[i].t1, i))


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True))
