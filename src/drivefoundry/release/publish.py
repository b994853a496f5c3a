"""Publish an engine and its verdict as a signed Release in a TUF repository on disk.

A release is a set of immutable targets, releases/<id>/{release.json, verdict.json, engine/...}, and stays in the
repository. One more target, current.json, says by cohort which cars run it (see `rollout`). All of it is signed
by the targets role."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tuf.api.metadata import TargetFile  # pyright: ignore[reportPrivateImportUsage]  # its documented place

from drivefoundry.judge.gate import GateState, Verdict, gate_text, load_verdict
from drivefoundry.outputs import MARK
from drivefoundry.release import sign
from drivefoundry.release.keys import OFFLINE, ROLES, Keys, make
from drivefoundry_car.durable import PUBLIC, replacing, sync
from drivefoundry_car.update.client import CHANNEL, EVERYONE
from drivefoundry_car.update.proof import target_path

NAME = re.compile(r"[A-Za-z0-9._-]+")
GATES = ("failed_gates", "undecided_gates")


@dataclass(frozen=True)
class Release:
    """A signed engine and verdict for a cohort. engine and verdict are content ids (SHA-256); id is the hash of
    everything.
    """

    id: str
    name: str
    engine: str
    verdict: str
    cohort: str
    created: str
    """ISO 8601, UTC."""
    passed: bool
    """No gate of the verdict keeps it from all cars."""
    failed_gates: dict[str, tuple[float, float]]
    """name -> (value, bound) of the gates that were allowed to fail."""
    files: dict[str, str]
    """name below the release -> SHA-256."""
    undecided_gates: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The same of the gates that were not decided, whether or not they hold a release."""

    def validate(self) -> Release:
        for part, what in (("name", self.name), ("cohort", self.cohort)):
            if not NAME.fullmatch(what):
                raise ValueError(f"Release.{part}: {what!r} may hold only letters, digits, '.', '_' and '-'")
        if not any(f.startswith("engine/") for f in self.files):
            raise ValueError("Release.files: no engine in it")
        if self.passed and self.failed_gates:
            raise ValueError("Release.passed: must be false where a gate failed")
        if not (self.passed or self.failed_gates or self.undecided_gates):
            raise ValueError("Release.passed: must be true where no gate failed and all were decided")
        return self


@dataclass(frozen=True)
class Cohort:
    """What a cohort runs: `release` on rollout_percent of its cars, `previous` (None: whatever they have) on the
    others. halted: only cars that already run the release keep it."""

    release: str
    rollout_percent: int
    previous: str | None
    halted: bool = False


class Channel(NamedTuple):
    """current.json. cohorts: cohort -> Cohort; published: release -> the number of its last publication."""

    cohorts: dict[str, Cohort]
    published: dict[str, int]


def create_repository(
    repo_dir: str | Path,
    keys_dir: str | Path | Keys,
    *,
    quorum: Mapping[str, tuple[int, int]] | None = None,
    now: datetime | None = None,
) -> bytes:
    """Create an empty signed repository, and missing keys; return the root.json to ship with cars.

    quorum: role -> (required signatures, number of keys), by default (1, 1). An existing repository is verified and
    left unchanged; ValueError if it is damaged.
    """
    repo, keys, counts = Path(repo_dir), Keys.of(keys_dir), _quorum(quorum)
    for folder in (*keys.folders("root"), *keys.folders("timestamp")):
        if repo.resolve() == folder.resolve() or repo.resolve() in folder.resolve().parents:
            raise ValueError(f"{folder}: the keys may not lie inside the repository, which cars can read")
    if not (repo / "metadata" / "timestamp.json").exists():
        at = sign.utc(now)
        with sign.disk(Path(keys.online)):
            held = {role: [key for _, key in make(keys, role, counts[role][1])] for role in ROLES}
        with sign.disk(repo):
            repo.mkdir(parents=True, exist_ok=True)
        with sign.alone(repo):
            state = sign.first_state(held, {role: needed for role, (needed, _) in counts.items()}, at)
            put(repo, state, CHANNEL, as_json({"cohorts": {}, "published": {}}))
            sign.write_root(repo, state.root, held["root"], at)
            sign.write_state(repo, keys, state, at)
    sign.load_state(repo)
    return sign.load_root(repo).to_bytes()


def publish(
    repo_dir: str | Path,
    keys_dir: str | Path | Keys,
    engine_dir: str | Path,
    verdict_json: str | Path,
    name: str,
    cohort: str = EVERYONE,
    rollout_percent: int = 100,
    *,
    allow_failed: bool = False,
) -> Release:
    """Sign an engine directory and its verdict, and make it current for rollout_percent of the cohort's cars.

    The same engine, verdict, name and cohort are the same release: publishing it again makes it current again, also for
    cars that have refused it. ValueError, with the published release unchanged: a verdict whose gates block it
    (unless allow_failed, which release.json then says), no engine, keys that are not the repository's, a full disk.
    """
    repo, keys, at = Path(repo_dir), Keys.of(keys_dir), sign.utc(None)
    verdict = _gated(Path(verdict_json))
    blocking = [gate_text(k, gate) for k, gate in verdict.gates.items() if gate.blocks]
    if blocking and not allow_failed:
        raise ValueError(
            f"{verdict_json}: gates did not pass: {' | '.join(blocking)}; fix the model, or use --allow-failed"
        )
    contents = {**_read_engine(Path(engine_dir)), "verdict.json": Path(verdict_json).read_bytes()}
    release = _describe(contents, name, cohort, verdict, at)
    with sign.alone(repo):
        state = sign.load_state(repo)
        sign.can_publish(keys, state)
        listed = release_of(repo, state, release.id)
        if listed is None:
            with sign.disk(repo):
                for file, data in contents.items():
                    put(repo, state, target_path(release.id, file), data)
                put(repo, state, target_path(release.id, "release.json"), as_json(asdict(release)))
        point(repo, keys, state, cohort, release.id, rollout_percent, at)
    return listed or release


def releases(repo_dir: str | Path) -> list[Release]:
    """Every release in a repository, oldest first, with verified signatures."""
    repo = Path(repo_dir)
    return all_of(repo, sign.load_state(repo))


def verify(repo_dir: str | Path) -> int:
    """Check every signature and every byte of a repository; return the number of target files. ValueError names what is
    wrong.
    """
    repo = Path(repo_dir)
    state = sign.load_state(repo)
    for target in state.targets.signed.targets:
        _get(repo, state, target)
    return len(state.targets.signed.targets)


def _quorum(given: Mapping[str, tuple[int, int]] | None) -> dict[str, tuple[int, int]]:
    """role -> (signatures, keys) for every role."""
    counts = {role: (1, 1) for role in ROLES} | dict(given or {})
    for role, (needed, count) in counts.items():
        if role not in ROLES:
            raise ValueError(f"quorum: no role {role!r}; the roles are {', '.join(ROLES)}")
        if not 1 <= needed <= count:
            raise ValueError(f"quorum of {role}: {needed} of {count} keys cannot sign; give 1 <= signatures <= keys")
        if needed > 1 and role not in OFFLINE:
            raise ValueError(f"quorum of {role}: an online role is signed by one machine; give (1, keys)")
    return counts


def _gated(path: Path) -> Verdict:
    """A verdict that has gates."""
    verdict = load_verdict(path)
    if not verdict.gates:
        raise ValueError(f"{path}: the verdict has no gates; judge the engine with gates")
    return verdict


def _bounds(verdict: Verdict, state: GateState) -> dict[str, tuple[float, float]]:
    """name -> (value, bound) of the gates in a state."""
    return {name: (gate.value, gate.bound) for name, gate in verdict.gates.items() if gate.state == state}


def _read_engine(folder: Path) -> dict[str, bytes]:
    """Read engine/<file> -> bytes. ValueError if the directory is missing or empty, or a name cannot be part of a
    URL."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no engine directory; quantise a checkpoint first")
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MARK}
    if not files:
        raise ValueError(f"{folder}: the engine directory is empty; quantise a checkpoint first")
    for name in files:
        if not all(NAME.fullmatch(part) for part in name.split("/")):
            raise ValueError(f"{folder}: file name {name!r} may hold only letters, digits, '.', '_' and '-'; rename it")
    return {f"engine/{name}": path.read_bytes() for name, path in files.items()}


def _describe(contents: dict[str, bytes], name: str, cohort: str, verdict: Verdict, now: datetime) -> Release:
    files = {k: hashlib.sha256(v).hexdigest() for k, v in contents.items()}
    engine = _digest({k: v for k, v in files.items() if k.startswith("engine/")})
    whole = _digest({"engine": engine, "verdict": files["verdict.json"], "name": name, "cohort": cohort})
    return Release(
        id=whole[:16],
        name=name,
        engine=engine,
        verdict=files["verdict.json"],
        cohort=cohort,
        created=now.isoformat(timespec="microseconds"),
        passed=verdict.passed,
        failed_gates=_bounds(verdict, "failed"),
        files=files,
        undecided_gates=_bounds(verdict, "not decided"),
    ).validate()


def point(
    repo: Path, keys: Keys, state: sign.Published, cohort: str, release: str, percent: int, now: datetime
) -> None:
    """Point a cohort to a release in current.json and publish the state."""
    if not 0 <= percent <= 100:
        raise ValueError(f"rollout_percent: must be 0 to 100, got {percent}")
    channel = channel_of(repo, state)
    was = channel.cohorts.get(cohort)
    if was is None:
        previous = None
    else:  # cars outside the roll-out keep the last release that everyone had
        whole = was.rollout_percent == 100 and not was.halted
        previous = was.release if whole and was.release != release else was.previous
    channel.cohorts[cohort] = Cohort(release, percent, None if percent == 100 else previous)
    channel.published[release] = state.targets.signed.version + 1
    write_channel(repo, keys, state, channel, now)


def write_channel(repo: Path, keys: Keys, state: sign.Published, channel: Channel, now: datetime) -> None:
    """Replace current.json and publish the state."""
    sign.can_publish(keys, state)
    cohorts = {cohort: asdict(rollout) for cohort, rollout in channel.cohorts.items()}
    with sign.disk(repo):
        put(repo, state, CHANNEL, as_json({"cohorts": cohorts, "published": channel.published}))
    sign.write_state(repo, keys, state, now)


def channel_of(repo: Path, state: sign.Published) -> Channel:
    """Read current.json."""
    said = json.loads(_get(repo, state, CHANNEL))
    return Channel({k: Cohort(**v) for k, v in said["cohorts"].items()}, said.get("published", {}))


def put(repo: Path, state: sign.Published, target: str, data: bytes) -> None:
    """Write a target under its hash and list it; it is invisible until the state is published."""
    info = TargetFile.from_data(target, data, ["sha256"])
    path = repo / "targets" / info.get_prefixed_paths()[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, mode=PUBLIC) as file:
        file.write(data)
    sync(path.parent)
    state.targets.signed.targets[target] = info


def _get(repo: Path, state: sign.Published, target: str) -> bytes:
    info = state.targets.signed.targets[target]
    path = repo / "targets" / info.get_prefixed_paths()[0]
    if not path.is_file():
        raise ValueError(f"{path}: missing; restore it from a copy")
    data = path.read_bytes()
    if len(data) != info.length or hashlib.sha256(data).hexdigest() != info.hashes["sha256"]:
        raise ValueError(f"{path}: not the bytes that were signed; restore it from a copy")
    return data


def release_of(repo: Path, state: sign.Published, release: str) -> Release | None:
    """A release by its id, None if the repository does not have it."""
    target = target_path(release, "release.json")
    if target not in state.targets.signed.targets:
        return None
    raw: dict[str, Any] = json.loads(_get(repo, state, target))
    made = Release(**raw)
    gates = {name: {k: (v[0], v[1]) for k, v in getattr(made, name).items()} for name in GATES}
    return replace(made, **gates).validate()


def all_of(repo: Path, state: sign.Published) -> list[Release]:
    """Every release, oldest first."""
    ids = [t.split("/")[1] for t in state.targets.signed.targets if t.endswith("/release.json") and t.count("/") == 2]
    found = [r for r in (release_of(repo, state, i) for i in ids) if r is not None]
    return sorted(found, key=lambda r: (r.created, r.id))


def as_json(value: Any) -> bytes:
    """A value as JSON text."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _digest(value: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
