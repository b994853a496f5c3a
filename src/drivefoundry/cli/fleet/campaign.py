"""`campaign check`, `test`, `replay`, `yield`, `sent`: what campaigns cost, find and yield."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates, Quiet
from drivefoundry.cli.verbs import Outcome

if TYPE_CHECKING:
    from drivefoundry.campaigns.backlog import StoredDrive
    from drivefoundry.campaigns.replay import Replayed
    from drivefoundry_car.triggers import Campaign

_FILE = "Campaigns (TOML); library.toml and campaigns.toml are shipped files unless they exist here."


@dataclass(frozen=True)
class CheckOptions(Common):
    """What `campaign check` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]


@dataclass(frozen=True)
class TestOptions(Quiet):
    """What `campaign test` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]
    what: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="WHAT")]
    """Drives (MCAP files, folders of them or of logs that can be imported), clip stores or run directories."""
    sent: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: nothing is novel)")] = None
    """What the fleet has sent, as written by `campaign sent`."""
    hours_a_day: float = 8.0
    """Hours of driving per car and day, for bytes per day."""
    most: int = 40
    """Maximum number of firings to show."""


@dataclass(frozen=True)
class ReplayOptions(Quiet, Creates):
    """What `campaign replay` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]
    what: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="WHAT")]
    """Drives, as for `campaign test`, with pictures if they have any."""
    store: Annotated[Path, arg(metavar="DIR")] = Path("replayed")
    """Clip store; a temporary service receives the clips."""
    to: Annotated[str, arg(metavar="URL", help_behavior_hint="(default: that service)")] = ""
    """A running ingest service instead; the drives must be of one enrolled vehicle."""
    code: Annotated[str, arg(metavar="CODE", help_behavior_hint="(default: enrolled before)")] = ""
    """The vehicle's one-time code there (`ingest enrol`)."""
    spool: Annotated[Path, arg(metavar="DIR")] = Path("replay")
    """Folder for recorded and waiting clips, and the credential."""
    insecure_http: Annotated[bool, arg(help_behavior_hint="")] = False
    """Allow plain http beyond this machine: anyone on the network path can read and change what is sent."""


@dataclass(frozen=True)
class YieldOptions(Common):
    """What `campaign yield` takes."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="WHAT")]
    """Run directory or clip store."""


@dataclass(frozen=True)
class SentOptions(Creates):
    """What `campaign sent` takes."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="STORE")]
    """Clip store, or the run directory that holds it."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("sent.safetensors")
    """The file to write."""


def check(options: CheckOptions) -> Outcome:
    """`campaign check`: one row per campaign."""
    from drivefoundry.campaigns import backlog
    from drivefoundry_car.triggers import Watch, load_campaigns
    from drivefoundry_car.triggers.rules import cost
    from drivefoundry_car.triggers.signals import SIGNALS

    campaigns = load_campaigns(options.who)
    most = sum(cost(c.tree) for c in campaigns if c.tree)
    shared = Watch(campaigns, list(SIGNALS)).rules.operations
    summary = (
        f"{len(campaigns)} campaigns: {shared} operations per sample, {most:,} at worst (every window expires at once)"
    )
    each = [{"name": c.name, "operations_at_worst": cost(c.tree) if c.tree else 0} for c in campaigns]
    data = {"campaigns": each, "operations": shared, "operations_at_worst": most}
    return Outcome(f"{backlog.check_table(campaigns)}\n\n{summary}", data)


def test(options: TestOptions) -> Outcome:
    """`campaign test`: what fired where, and totals by campaign."""
    if not options.what:
        raise ValueError("campaign test: give drives, a clip store or a run to test it on")
    if options.hours_a_day <= 0 or options.most < 0:
        raise ValueError("campaign test: --hours-a-day must be > 0 and --most >= 0")
    from drivefoundry.campaigns import backlog
    from drivefoundry_car.triggers import load_campaigns
    from drivefoundry_car.triggers.novelty import Sent

    campaigns = load_campaigns(options.who)
    sent = None if options.sent is None else Sent.load(options.sent)
    tested = backlog.mine(campaigns, backlog.all_drives_at(options.what), sent)
    parts = [backlog.fired_table(tested, options.most)] if tested.fired and options.most else []
    parts.append(backlog.totals_table(campaigns, tested, options.hours_a_day))
    parts.append(
        f"{tested.drives} drives, {60 * tested.hours:.1f} minutes; a day has {options.hours_a_day:g} hours of driving"
    )
    data = {"drives": tested.drives, "hours": tested.hours, "fired": [asdict(f) for f in tested.fired]}
    return Outcome("\n\n".join(parts), data)


def replay(options: ReplayOptions) -> Outcome:
    """`campaign replay`: replay stored drives and upload their clips."""
    if not options.what:
        raise ValueError("campaign replay: give drives, a clip store or a run to drive again")
    from drivefoundry.campaigns import backlog
    from drivefoundry.campaigns import replay as replays
    from drivefoundry_car.triggers import load_campaigns

    campaigns = load_campaigns(options.who)
    drives = backlog.all_drives_at(options.what, video=not options.dry_run)
    where = options.to or str(options.store)
    if options.dry_run:
        tested = backlog.mine(campaigns, drives, None)
        text = f"would record {len(tested.fired)} clips of {tested.drives} drives at most, and send them to {where}"
        return Outcome(text, {"drives": tested.drives, "firings": len(tested.fired), "to": where})
    done = _to_service(options, campaigns, drives) if options.to else _to_store(options, campaigns, drives)
    sent = sum(r.counts.sent for r in done)
    data = {"drives": len(done), "sent": sent, "to": where}
    return Outcome(f"{replays.replayed_table(done)}\n\n{sent} clips sent to {where}", data)


def _to_service(options: ReplayOptions, campaigns: list[Campaign], drives: Iterator[StoredDrive]) -> list[Replayed]:
    from drivefoundry.campaigns import replay as replays
    from drivefoundry_car.upload.enrol import Credential
    from drivefoundry_car.upload.uploader import Uploader

    insecure = options.insecure_http
    credential = Credential(options.to, options.spool / "credential.json", insecure_http=insecure)
    if options.code:
        credential.enrol(options.code)
    uploader = Uploader(options.to, credential, options.spool / "queue", insecure_http=insecure)
    return [*replays.replay(campaigns, drives, options.spool, lambda _: uploader)]


def _to_store(options: ReplayOptions, campaigns: list[Campaign], drives: Iterator[StoredDrive]) -> list[Replayed]:
    import secrets

    from drivefoundry.campaigns import replay as replays
    from drivefoundry.clips.store import ClipStore
    from drivefoundry.ingest.access.tokens import issue_token
    from drivefoundry.ingest.server import running
    from drivefoundry_car.upload.uploader import Uploader

    secret = secrets.token_hex(32)
    with running(ClipStore(options.store), secret) as service:

        def uploader_of(vehicle: str) -> Uploader:
            return Uploader(service.url, issue_token(secret, vehicle), options.spool / "queue" / vehicle)

        return [*replays.replay(campaigns, drives, options.spool, uploader_of)]


def yielded(options: YieldOptions) -> Outcome:
    """`campaign yield`: one row per campaign."""
    from drivefoundry.campaigns import backlog

    found = backlog.yields(options.what)
    return Outcome(backlog.yield_table(found), [asdict(one) for one in found])


def sent(options: SentOptions) -> Outcome:
    """`campaign sent`: write the file against which cars measure novelty."""
    from drivefoundry import outputs
    from drivefoundry.campaigns import backlog
    from drivefoundry.clips.store import ClipStore

    outputs.check_file(options.out, ".safetensors")
    url = options.what / "clips" if (options.what / "ledger.db").exists() else options.what
    if not (url / "clips.lance").exists():
        raise ValueError(f"{options.what}: not a clip store or a run with one")
    if options.dry_run:
        return Outcome(f"would write {options.out}", {"would_write": options.out})
    shown = backlog.what_was_sent(ClipStore(url))
    with outputs.file(options.out, ".safetensors") as aside:
        shown.save(aside)
    return Outcome(f"{options.out}: {len(shown.kept)} embeddings", {"file": options.out, "embeddings": len(shown.kept)})
