"""`ingest serve`, `enrol`, `revoke`, `vehicles`: the ingest service for external cars."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates, announce
from drivefoundry.cli.verbs import Outcome

if TYPE_CHECKING:
    from drivefoundry.ingest.access.vehicles import Vehicles


@dataclass(frozen=True)
class Place(Common):
    """Where a service is."""

    store: Annotated[str, arg(metavar="DIR|URL")] = "clips"
    """Clip store: a directory or s3://bucket/prefix (credentials from AWS_*)."""
    folder: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: DIR/incoming of a local store)")
    ] = None
    """Folder for unfinished uploads and the vehicle table, on a local disk."""


@dataclass(frozen=True)
class ServeOptions(Place):
    """What `ingest serve` takes."""

    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Where to listen; 0.0.0.0 for other machines, with --cert and --key or behind a TLS proxy."""
    port: Annotated[int, arg(metavar="N")] = 8080
    """Port to listen on; 0 for a free one."""
    clip: Annotated[int, arg(metavar="BYTES")] = 256 << 20
    """Largest accepted clip."""
    day: Annotated[int | None, arg(metavar="BYTES", help_behavior_hint="(default: any)")] = None
    """Maximum bytes per vehicle and day (UTC)."""
    requests: Annotated[float, arg(metavar="N")] = 100.0
    """Sustained requests per second and vehicle, and wrong secrets per second and address."""
    unfinished: Annotated[int, arg(metavar="BYTES")] = 4 << 30
    """Maximum bytes of one vehicle's unfinished uploads."""
    cert: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: plain HTTP)")] = None
    """Certificate chain (PEM), for TLS."""
    key: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Its private key (PEM, without a passphrase)."""
    trust_proxy: Annotated[tuple[str, ...], arg(metavar="ADDRESS|CIDR", help_behavior_hint="(default: none)")] = ()
    """Proxies whose X-Forwarded-For or Forwarded header is trusted."""
    connections: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: by `ulimit -n`)")] = None
    """Maximum number of simultaneous connections."""


@dataclass(frozen=True)
class EnrolOptions(Place, Creates):
    """What `ingest enrol` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="VEHICLE", help_behavior_hint="")] = ""
    """The vehicle's name, as in its drives."""
    scopes: Annotated[tuple[str, ...], arg(metavar="SCOPE", help_behavior_hint="(default: upload and status)")] = ()
    """What its tokens permit."""


@dataclass(frozen=True)
class RevokeOptions(Place, Creates):
    """What `ingest revoke` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="VEHICLE", help_behavior_hint="")] = ""
    """The vehicle's name."""


@dataclass(frozen=True)
class VehiclesOptions(Place):
    """What `ingest vehicles` takes."""


def serve(options: ServeOptions) -> None:
    """Run the ingest service until it is stopped; then finish open requests and land what was acknowledged."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    from drivefoundry.clips.store import ClipStore
    from drivefoundry.ingest.access.limits import Limits
    from drivefoundry.ingest.access.network import Access, raise_descriptors
    from drivefoundry.ingest.server import running

    limits = Limits(
        clip=options.clip, requests=options.requests, day=options.day, unfinished=options.unfinished
    ).validate()
    access = Access(options.cert, options.key, options.trust_proxy, options.connections).validate()
    raise_descriptors()
    folder = _folder(options)
    store = ClipStore(options.store)
    with running(store, None, options.port, options.host, folder, limits=limits, access=access, apart=True) as service:
        text = f"{service.url} receives clips into {options.store} until it is stopped"
        announce(options, text, {"url": service.url, "store": options.store})
        stop.wait()


def enrol(options: EnrolOptions) -> Outcome:
    """`ingest enrol`: print a vehicle's one-time code."""
    from drivefoundry.ingest.access.tokens import SCOPES
    from drivefoundry.ingest.access.vehicles import Vehicles

    who, scopes, file = _named(options.who, "enrol"), options.scopes or SCOPES, _folder(options) / "vehicles.db"
    if options.dry_run:
        return Outcome(f"would invite {who} for {', '.join(scopes)} in {file}", {"vehicle": who, "scopes": scopes})
    with closing(Vehicles(file)) as vehicles:
        code = vehicles.invite(who, scopes)
    return Outcome(code, {"vehicle": who, "scopes": scopes, "code": code})


def revoke(options: RevokeOptions) -> Outcome:
    """`ingest revoke`: invalidate everything that the vehicle holds."""
    who = _named(options.who, "revoke")
    with closing(_vehicles(options)) as vehicles:
        if options.dry_run:
            return Outcome(f"would revoke {who}", {"vehicle": who})
        vehicles.revoke(who)
    return Outcome("", {"vehicle": who, "revoked": True})


def listed(options: VehiclesOptions) -> Outcome:
    """`ingest vehicles`: one line per vehicle: name, scopes, bytes sent today, status."""
    lines, rows = [], []
    with closing(_vehicles(options)) as vehicles:
        for v in vehicles.all():
            status, at = "invited", v.revoked or v.enrolled
            if at is not None:
                status = f"{'revoked' if v.revoked else 'enrolled'} {datetime.fromtimestamp(at):%Y-%m-%d %H:%M}"
            spent = vehicles.spent(v.name)
            lines.append(f"{v.name:24} {','.join(v.scopes):16} {spent:14} {status}")
            rows.append({"vehicle": v.name, "scopes": v.scopes, "bytes_today": spent, "status": status.split()[0]})
    return Outcome("\n".join(lines), rows)


def _folder(options: Place) -> Path:
    from drivefoundry.ingest.server import default_folder

    return options.folder or default_folder(options.store)


def _vehicles(options: Place) -> Vehicles:
    from drivefoundry.ingest.access.backup import copy_of
    from drivefoundry.ingest.access.vehicles import Vehicles

    file = _folder(options) / "vehicles.db"
    if not file.exists() and not copy_of(file).exists():
        raise ValueError(f"{file}: no vehicles here; name the service's --store or --folder")
    return Vehicles(file)


def _named(who: str, verb: str) -> str:
    if not who:
        raise ValueError(f"ingest {verb}: give the vehicle's name")
    return who
