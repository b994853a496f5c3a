"""`campaign check`, `test`, `replay`, `yield`, `sent`: campaigns and drives in, what they cost, find and bring, out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import parse
from drivefoundry.cli.verbs import PROG
from drivefoundry.settings import nearest

_VERBS = {
    "check": ("FILE", "parse a campaigns file: what each one takes, costs and needs"),
    "test": ("FILE WHAT...", "run it over drives, a clip store or a run: what fired where, and bytes a day"),
    "replay": ("FILE WHAT...", "drive it again: record the clips and send them, to a store or a running service"),
    "yield": ("WHAT", "what each campaign brought home into a run or a clip store"),
    "sent": ("STORE", "what a store's clips show, as the file that cars measure novelty against"),
}
_FILE = "Campaigns (TOML); library.toml and campaigns.toml: those that ship, where there is no such file here."


@dataclass(frozen=True)
class CheckOptions:
    """What `campaign check` understands."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]


@dataclass(frozen=True)
class TestOptions:
    """What `campaign test` understands."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]
    what: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="WHAT")]
    """Drives (MCAP files, folders of them or of logs that can be imported), clip stores or run directories."""
    sent: Annotated[Path | None, arg(metavar="NPY", help_behavior_hint="(default: nothing is novel)")] = None
    """What the fleet has sent (`campaign sent`)."""
    hours_a_day: float = 8.0
    """That a car drives, for the bytes a day."""
    most: int = 40
    """Firings shown."""


@dataclass(frozen=True)
class ReplayOptions:
    """What `campaign replay` understands."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="FILE", help=_FILE)]
    what: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="WHAT")]
    """Drives, as `campaign test` takes them; with pictures, where they have some."""
    store: Annotated[Path, arg(metavar="DIR")] = Path("replayed")
    """Clip store; a service of its own takes the clips into it."""
    to: Annotated[str, arg(metavar="URL", help_behavior_hint="(default: that service)")] = ""
    """A running ingest service instead; the drives are of one vehicle that it knows."""
    code: Annotated[str, arg(metavar="CODE", help_behavior_hint="(default: enrolled before)")] = ""
    """The vehicle's one-time code there (`ingest enrol`)."""
    spool: Annotated[Path, arg(metavar="DIR")] = Path("replay")
    """Where clips are recorded and wait; and the credential."""


@dataclass(frozen=True)
class YieldOptions:
    """What `campaign yield` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="WHAT")]
    """Run directory or clip store."""


@dataclass(frozen=True)
class SentOptions:
    """What `campaign sent` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="STORE")]
    """Clip store, or the run directory that holds it."""
    out: Annotated[Path, arg(metavar="NPY")] = Path("sent.npy")
    """The file to write."""


_OPTIONS = {
    "check": CheckOptions,
    "test": TestOptions,
    "replay": ReplayOptions,
    "yield": YieldOptions,
    "sent": SentOptions,
}


def run(rest: list[str]) -> None:
    """`campaign check`, `test`, `replay`, `yield` and `sent`."""
    if not rest or rest[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {PROG} campaign {f'{name} {what}':18}  {does}" for name, (what, does) in _VERBS.items())
        print(f"usage:\n{verbs}\n\n{PROG} campaign test --help shows the options.")
        return
    if rest[0] not in _VERBS:
        raise ValueError(f"campaign {rest[0]}: {nearest(rest[0], _VERBS)}")
    options = parse(_OPTIONS[rest[0]], f"campaign {rest[0]}", _VERBS[rest[0]][1], rest[1:])
    if isinstance(options, CheckOptions):
        _check(options)
    elif isinstance(options, TestOptions):
        _test(options)
    elif isinstance(options, ReplayOptions):
        _replay(options)
    elif isinstance(options, YieldOptions):
        from drivefoundry.stages import backlog

        print(backlog.yield_table(backlog.yields(options.what)))
    elif isinstance(options, SentOptions):
        _sent(options)


def _check(options: CheckOptions) -> None:
    from drivefoundry.stages import backlog
    from drivefoundry_car.rules import cost
    from drivefoundry_car.signals import SIGNALS
    from drivefoundry_car.trigger import Watch, load_campaigns

    campaigns = load_campaigns(options.who)
    print(backlog.check_table(campaigns))
    most = sum(cost(c.tree) for c in campaigns if c.tree)
    shared = Watch(campaigns, list(SIGNALS)).rules.operations
    print(
        f"\n{len(campaigns)} campaigns: {shared} operations a sample, {most:,} at worst (every window used up at once)"
    )


def _test(options: TestOptions) -> None:
    if not options.what:
        raise ValueError("campaign test: give drives, a clip store or a run to test it on")
    if options.hours_a_day <= 0 or options.most < 0:
        raise ValueError("campaign test: --hours-a-day above 0 and --most of at least 0 wanted")
    from drivefoundry.stages import backlog
    from drivefoundry_car.novelty import Sent
    from drivefoundry_car.trigger import load_campaigns

    campaigns = load_campaigns(options.who)
    sent = None if options.sent is None else Sent.load(options.sent)
    tested = backlog.mine(campaigns, backlog.all_drives_at(options.what), sent)
    if tested.fired and options.most:
        print(backlog.fired_table(tested, options.most) + "\n")
    print(backlog.totals_table(campaigns, tested, options.hours_a_day))
    print(
        f"\n{tested.drives} drives, {60 * tested.hours:.1f} minutes; a day has {options.hours_a_day:g} hours of driving"
    )


def _replay(options: ReplayOptions) -> None:
    if not options.what:
        raise ValueError("campaign replay: give drives, a clip store or a run to drive again")
    import secrets

    from drivefoundry.clips.store import ClipStore
    from drivefoundry.ingest.server import running
    from drivefoundry.ingest.tokens import issue_token
    from drivefoundry.stages import backlog, replay
    from drivefoundry_car.enrol import Credential
    from drivefoundry_car.trigger import load_campaigns
    from drivefoundry_car.upload import Uploader

    campaigns = load_campaigns(options.who)
    drives = backlog.all_drives_at(options.what, video=True)
    if options.to:
        credential = Credential(options.to, options.spool / "credential.json")
        if options.code:
            credential.enrol(options.code)
        uploader = Uploader(options.to, credential, options.spool / "queue")
        done = [*replay.replay(campaigns, drives, options.spool, lambda _: uploader)]
    else:
        secret = secrets.token_hex(32)
        with running(ClipStore(options.store), secret) as service:

            def uploader_of(vehicle: str) -> Uploader:
                return Uploader(service.url, issue_token(secret, vehicle), options.spool / "queue" / vehicle)

            done = [*replay.replay(campaigns, drives, options.spool, uploader_of)]
    print(replay.replayed_table(done))
    sent = sum(r.counts.sent for r in done)
    print(f"\n{sent} clips sent to {options.to or options.store}")


def _sent(options: SentOptions) -> None:
    from drivefoundry.clips.store import ClipStore
    from drivefoundry.stages import backlog

    url = options.what / "clips" if (options.what / "ledger.db").exists() else options.what
    if not (url / "clips.lance").exists():
        raise ValueError(f"{options.what}: no clip store, and no run with one")
    sent = backlog.what_was_sent(ClipStore(url))
    sent.save(options.out)
    print(f"{options.out}: {len(sent.kept)} embeddings")
