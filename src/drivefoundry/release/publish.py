"""Engine and Verdict in, signed Release out: publication, staged roll-out and roll-back in a TUF repository on disk.

A release is a set of immutable targets, releases/<id>/{release.json, verdict.json, engine/...}, and stays in the
repository. Which cars run it is said by one more target, current.json, by cohort; staging and rolling back rewrite
only that. All of it is signed by the targets role."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import TargetFile  # pyright: ignore[reportPrivateImportUsage]  # its documented place

from drivefoundry.judge.gate import load_verdict
from drivefoundry.release import sign
from drivefoundry_car.durable import atomic, sync
from drivefoundry_car.proof import target_path
from drivefoundry_car.update import CHANNEL, EVERYONE

NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Release:
    """A signed Engine + Verdict, and whom it is for. engine and verdict are content ids (SHA-256); id is that of the
    whole.
    """

    id: str
    name: str
    engine: str
    verdict: str
    cohort: str
    created: str
    """ISO 8601, UTC."""
    passed: bool
    """Every gate of the verdict passed."""
    failed_gates: dict[str, tuple[float, float]]
    """name -> (value, bound) of the gates that failed and were allowed to."""
    files: dict[str, str]
    """name below the release -> SHA-256."""

    def validate(self) -> Release:
        for field, what in (("name", self.name), ("cohort", self.cohort)):
            if not NAME.fullmatch(what):
                raise ValueError(f"Release.{field}: {what!r} may hold only letters, digits, '.', '_' and '-'")
        if not any(f.startswith("engine/") for f in self.files):
            raise ValueError("Release.files: no engine in it")
        if self.passed == bool(self.failed_gates):
            raise ValueError("Release.passed: true exactly where no gate failed")
        return self


@dataclass(frozen=True)
class Rollout:
    """What a cohort runs: `release` in rollout_percent of its cars, `previous` (None: whatever they have) in the
    others.
    """

    release: str
    rollout_percent: int
    previous: str | None


def create_repository(repo_dir: str | Path, keys_dir: str | Path, *, now: datetime | None = None) -> bytes:
    """An empty signed repository, and its keys where they are missing; the root.json to ship with cars (bytes) out.

    A repository that is there already is verified and left as it is. ValueError where it is damaged.
    """
    repo, keys_path = Path(repo_dir), Path(keys_dir)
    if repo.resolve() == keys_path.resolve() or repo.resolve() in keys_path.resolve().parents:
        raise ValueError(f"{keys_path}: the keys may not lie inside the repository, which cars can read")
    if not (repo / "metadata" / "timestamp.json").exists():
        at = sign.utc(now)
        keys = sign.make_keys(keys_path)
        with sign.disk(repo):
            repo.mkdir(parents=True, exist_ok=True)
        with sign.alone(repo):
            state = sign.first_state(keys, at)
            _put(repo, state, CHANNEL, _json({"cohorts": {}}))
            sign.write_state(repo, keys_path, state, at, new_root=True)
    sign.load_state(repo)
    return (repo / "metadata" / "1.root.json").read_bytes()


def publish(
    repo_dir: str | Path,
    keys_dir: str | Path,
    engine_dir: str | Path,
    verdict_json: str | Path,
    name: str,
    cohort: str = EVERYONE,
    rollout_percent: int = 100,
    *,
    allow_failed: bool = False,
    now: datetime | None = None,
) -> Release:
    """Engine directory and verdict in; signed and current for rollout_percent of its cohort's cars out.

    The same engine, verdict, name and cohort are the same release: publishing it again only makes it current again.
    ValueError, with the published release unchanged: a verdict whose gates did not pass (unless allow_failed, which
    release.json then says), no engine, keys that are not the repository's, a full disk.
    """
    repo, keys, at = Path(repo_dir), Path(keys_dir), sign.utc(now)
    verdict, failed = _read_verdict(Path(verdict_json))
    if failed and not allow_failed:
        why = ", ".join(f"{k} {bound:.4g} (got {value:.4g})" for k, (value, bound) in failed.items())
        raise ValueError(f"{verdict_json}: gates did not pass: {why}; mend the model, or publish with allow_failed")
    contents = {**_read_engine(Path(engine_dir)), "verdict.json": verdict}
    release = _describe(contents, name, cohort, failed, at)
    with sign.alone(repo):
        state = sign.load_state(repo)
        listed = _release(repo, state, release.id)
        if listed is None:
            with sign.disk(repo):
                for file, data in contents.items():
                    _put(repo, state, target_path(release.id, file), data)
                _put(repo, state, target_path(release.id, "release.json"), _json(asdict(release)))
        _point(repo, keys, state, cohort, release.id, rollout_percent, at)
    return listed or release


def stage(
    repo_dir: str | Path, keys_dir: str | Path, cohort: str, rollout_percent: int, *, now: datetime | None = None
) -> Rollout:
    """Widen (or narrow) the roll-out of a cohort's current release. Cars chosen at 10 % are among those at 50 %."""
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        entry = _rollouts(repo, state).get(cohort)
        if entry is None:
            raise ValueError(f"{repo}: cohort {cohort!r} has no release; publish one to it first")
        _point(repo, Path(keys_dir), state, cohort, entry.release, rollout_percent, sign.utc(now))
    return rollouts(repo)[cohort]


def roll_back(repo_dir: str | Path, keys_dir: str | Path, to: str, *, now: datetime | None = None) -> Release:
    """Make a former release (its id) current again for all cars of its cohort, in newer metadata that every car
    accepts.
    """
    repo = Path(repo_dir)
    with sign.alone(repo):
        state = sign.load_state(repo)
        release = _release(repo, state, to)
        if release is None:
            raise ValueError(
                f"{repo}: no release {to!r}; it holds {', '.join(r.id for r in _all(repo, state)) or 'none'}"
            )
        _point(repo, Path(keys_dir), state, release.cohort, to, 100, sign.utc(now))
    return release


def renew(repo_dir: str | Path, keys_dir: str | Path, *, now: datetime | None = None) -> bool:
    """Sign anew what has lived half its life, so that it does not expire; whether anything was due. Run it every
    day.
    """
    repo, at = Path(repo_dir), sign.utc(now)
    with sign.alone(repo):
        state = sign.load_state(repo)
        old_root = sign.due(state, "root", at)
        if old_root:
            state.root.signed.version += 1
            state.root.signed.expires = at + sign.LIFE["root"]
        is_due = old_root or any(sign.due(state, role, at) for role in ("targets", "snapshot", "timestamp"))
        if is_due:
            sign.write_state(repo, Path(keys_dir), state, at, new_root=old_root)
    return is_due


def releases(repo_dir: str | Path) -> list[Release]:
    """Every release in a repository, oldest first, read through its signatures."""
    repo = Path(repo_dir)
    return _all(repo, sign.load_state(repo))


def rollouts(repo_dir: str | Path) -> dict[str, Rollout]:
    """cohort -> what it runs."""
    repo = Path(repo_dir)
    return _rollouts(repo, sign.load_state(repo))


def verify(repo_dir: str | Path) -> int:
    """Check every signature and every byte of a repository; the number of target files out. ValueError names what is
    wrong.
    """
    repo = Path(repo_dir)
    state = sign.load_state(repo)
    for target in state.targets.signed.targets:
        _get(repo, state, target)
    return len(state.targets.signed.targets)


def _read_verdict(path: Path) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """The verdict's bytes, and the gates (value, bound) that did not pass."""
    gates = load_verdict(path).gates
    if not gates:
        raise ValueError(f"{path}: the verdict has no gates; judge the engine with gates")
    return path.read_bytes(), {name: (value, bound) for name, (value, bound, ok) in gates.items() if not ok}


def _read_engine(folder: Path) -> dict[str, bytes]:
    """engine/<file> -> bytes. ValueError for no directory, an empty one and names that cannot be part of a URL."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no engine directory; shrink a checkpoint first")
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if not files:
        raise ValueError(f"{folder}: the engine directory is empty; shrink a checkpoint first")
    for name in files:
        if not all(NAME.fullmatch(part) for part in name.split("/")):
            raise ValueError(f"{folder}: file name {name!r} may hold only letters, digits, '.', '_' and '-'; rename it")
    return {f"engine/{name}": path.read_bytes() for name, path in files.items()}


def _describe(
    contents: dict[str, bytes], name: str, cohort: str, failed: dict[str, tuple[float, float]], now: datetime
) -> Release:
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
        passed=not failed,
        failed_gates=failed,
        files=files,
    ).validate()


def _point(repo: Path, keys: Path, state: sign.State, cohort: str, release: str, percent: int, now: datetime) -> None:
    """Rewrite current.json for one cohort and publish the state."""
    if not 0 <= percent <= 100:
        raise ValueError(f"rollout_percent: 0 to 100 wanted, got {percent}")
    all_of = _rollouts(repo, state)
    was = all_of.get(cohort)
    if was is None:
        previous = None
    else:  # cars outside the roll-out stay with what was rolled out to everyone last
        previous = was.release if was.rollout_percent == 100 and was.release != release else was.previous
    all_of[cohort] = Rollout(release, percent, None if percent == 100 else previous)
    with sign.disk(repo):
        _put(repo, state, CHANNEL, _json({"cohorts": {k: asdict(v) for k, v in sorted(all_of.items())}}))
    sign.write_state(repo, keys, state, now)


def _put(repo: Path, state: sign.State, target: str, data: bytes) -> None:
    """Write a target under its hash (nobody is told of it before the state is published) and list it."""
    info = TargetFile.from_data(target, data, ["sha256"])
    path = repo / "targets" / info.get_prefixed_paths()[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(data)
    sync(path.parent)
    state.targets.signed.targets[target] = info


def _get(repo: Path, state: sign.State, target: str) -> bytes:
    info = state.targets.signed.targets[target]
    path = repo / "targets" / info.get_prefixed_paths()[0]
    if not path.is_file():
        raise ValueError(f"{path}: missing; restore it from a copy")
    data = path.read_bytes()
    if len(data) != info.length or hashlib.sha256(data).hexdigest() != info.hashes["sha256"]:
        raise ValueError(f"{path}: not the bytes that were signed; restore it from a copy")
    return data


def _release(repo: Path, state: sign.State, release: str) -> Release | None:
    target = target_path(release, "release.json")
    if target not in state.targets.signed.targets:
        return None
    raw: dict[str, Any] = json.loads(_get(repo, state, target))
    made = Release(**raw)
    return replace(made, failed_gates={k: (v[0], v[1]) for k, v in made.failed_gates.items()}).validate()


def _all(repo: Path, state: sign.State) -> list[Release]:
    ids = [t.split("/")[1] for t in state.targets.signed.targets if t.endswith("/release.json") and t.count("/") == 2]
    found = [r for r in (_release(repo, state, i) for i in ids) if r is not None]
    return sorted(found, key=lambda r: (r.created, r.id))


def _rollouts(repo: Path, state: sign.State) -> dict[str, Rollout]:
    return {k: Rollout(**v) for k, v in json.loads(_get(repo, state, CHANNEL))["cohorts"].items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _digest(value: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
