"""`release ...`: manage a repository of releases: what cars run, and who may decide it.

WHERE comes first, then the other argument; a single word that is not a path is the latter, and WHERE is ./out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates
from drivefoundry.cli.verbs import Outcome

if TYPE_CHECKING:
    from drivefoundry.release import Cohort, Keys, Release

SHORT = 12
"""Length of displayed key ids."""


@dataclass(frozen=True)
class WhereOptions(Common):
    """What `release list` takes."""

    where: Annotated[tyro.conf.Positional[Path], arg(metavar="[WHERE]")] = Path("out")
    """A repository's directory, a run (its repository, else its newest release), or one release of a run."""


@dataclass(frozen=True)
class ShowOptions(WhereOptions):
    """What `release show` takes."""

    release: Annotated[
        tyro.conf.Positional[str], arg(metavar="[RELEASE]", help_behavior_hint="(default: the newest)")
    ] = ""
    """Which release: its id, a prefix of it, or its name."""


@dataclass(frozen=True)
class KeysOptions(WhereOptions):
    """What `release keys` takes."""

    keys: Annotated[tuple[Path, ...], arg(metavar="DIR", help_behavior_hint="(default: the run's keys)")] = ()
    """Directory of private keys; once per offline medium."""
    online: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: with the others)")] = None
    """Directory of the snapshot and timestamp keys."""


@dataclass(frozen=True)
class RenewOptions(KeysOptions, Creates):
    """What `release renew` takes."""


@dataclass(frozen=True)
class CohortOptions(KeysOptions, Creates):
    """What `release halt` and `release resume` take."""

    cohort: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: the only one, or all)")] = ""
    """The cohort whose roll-out changes."""


@dataclass(frozen=True)
class StageOptions(CohortOptions):
    """What `release stage` takes."""

    percent: Annotated[tyro.conf.Positional[str], arg(metavar="PERCENT", help_behavior_hint="")] = ""
    """Share of the cohort's cars that get the release, 0 to 100."""


@dataclass(frozen=True)
class RollbackOptions(KeysOptions, Creates):
    """What `release rollback` takes."""

    to: Annotated[tyro.conf.Positional[str], arg(metavar="RELEASE", help_behavior_hint="")] = ""
    """The release to go back to: its id, a prefix of it, or its name."""


@dataclass(frozen=True)
class PublishOptions(CohortOptions):
    """What `release publish` takes."""

    percent: Annotated[int, arg(metavar="N")] = 100
    """Share of the cohort's cars that get the release, 0 to 100."""
    engine: Annotated[str, arg(metavar="ENGINE", help_behavior_hint="(default: the run's newest)")] = ""
    """The engine to publish."""
    verdict: Annotated[str, arg(metavar="VERDICT", help_behavior_hint="(default: the run's newest)")] = ""
    """The verdict that justifies the release."""
    name: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: turn-N, or the directory's)")] = ""
    """Readable name of the release."""
    allow_failed: Annotated[bool, arg(help_behavior_hint="")] = False
    """Publish despite a failed gate; the release records it."""


@dataclass(frozen=True)
class NewOptions(KeysOptions, Creates):
    """What `release new` takes."""

    quorum: Annotated[tuple[str, ...], arg(metavar="ROLE=N/M", help_behavior_hint="(default: 1/1)")] = ()
    """Signatures required by a role, out of how many keys: root=2/3, targets=2/3."""


@dataclass(frozen=True)
class RotateOptions(NewOptions):
    """What `release rotate` takes."""

    role: Annotated[tuple[Literal["root", "targets", "online"], ...], arg(metavar="ROLE", help_behavior_hint="")] = ()
    """Roles whose keys are replaced; online: snapshot and timestamp."""
    only: Annotated[tuple[str, ...], arg(metavar="KEY", help_behavior_hint="(default: all of the role's)")] = ()
    """Ids, or prefixes, of the keys to replace."""


def listed(options: WhereOptions) -> Outcome:
    """`release list`: one line per release, and what each cohort runs."""
    from drivefoundry.release import releases, rollouts
    from drivefoundry.runs.repository import to_read

    repo = to_read(options.where)
    held, runs = releases(repo), rollouts(repo)
    lines = [
        f"{r.id}  {r.name:16} {r.created[:16]}  {'passed' if r.passed else 'FAILED'}  {r.cohort:16}"
        f"{_place(r, runs.get(r.cohort))}".rstrip()
        for r in held
    ]
    data = {
        "repository": repo,
        "releases": [{**asdict(r), "files": len(r.files)} for r in held],
        "rollouts": {cohort: asdict(rollout) for cohort, rollout in runs.items()},
    }
    return Outcome("\n".join(lines) or f"{repo}: no releases yet", data)


def _gates(state: str, gates: Mapping[str, tuple[float, float]]) -> list[str]:
    """Lines of `release show` on the gates in one state."""
    return [f"          {state}: {name} {bound:.4g}, got {value:.4g}" for name, (value, bound) in gates.items()]


def show(options: ShowOptions) -> Outcome:
    """`release show`: everything about one release."""
    from drivefoundry.release import rollouts
    from drivefoundry.runs.repository import to_read

    where, release = _two(options.where, options.release)
    repo = to_read(where)
    made = _found(repo, release)
    runs = rollouts(repo).get(made.cohort)
    lines = [
        f"release   {made.id}",
        f"name      {made.name}",
        f"cohort    {made.cohort}{_place(made, runs)}",
        f"created   {made.created}",
        f"engine    {made.engine}",
        f"verdict   {made.verdict}",
        f"gates     {'passed' if made.passed else 'FAILED'}",
        *_gates("failed", made.failed_gates),
        *_gates("not decided", made.undecided_gates),
        f"files     {len(made.files)}",
    ]
    return Outcome("\n".join(lines), {**asdict(made), "rollout": None if runs is None else asdict(runs)})


def stage(options: StageOptions) -> Outcome:
    """`release stage`: widen or narrow a roll-out."""
    from drivefoundry.release import stage as change

    where, percent = _two(options.where, options.percent)
    if not percent.isdecimal():
        raise ValueError(f"release stage: {percent or 'PERCENT'}: give a percentage, 0 to 100")
    options = replace(options, where=where)
    return _changed(options, lambda repo, keys: change(repo, keys, _cohort(repo, options.cohort), int(percent)))


def halt(options: CohortOptions) -> Outcome:
    """`release halt`: no further car gets the release."""
    from drivefoundry.release import halt as change

    return _changed(options, lambda repo, keys: change(repo, keys, _cohort(repo, options.cohort)))


def resume(options: CohortOptions) -> Outcome:
    """`release resume`: continue a halted roll-out."""
    from drivefoundry.release import resume as change

    return _changed(options, lambda repo, keys: change(repo, keys, _cohort(repo, options.cohort)))


def rollback(options: RollbackOptions) -> Outcome:
    """`release rollback`: give a former release to all cars of its cohort."""
    from drivefoundry.release import roll_back, rollouts

    where, to = _two(options.where, options.to)
    if not to:
        raise ValueError("release rollback: RELEASE is missing; `drivefoundry release list` shows them")

    def change(repo: Path, keys: Keys) -> Cohort:
        made = roll_back(repo, keys, _found(repo, to).id)
        return rollouts(repo)[made.cohort]

    return _changed(replace(options, where=where), change)


def publish(options: PublishOptions) -> Outcome:
    """`release publish`: sign an engine and its verdict for a share of a cohort's cars."""
    from drivefoundry.release import publish as sign
    from drivefoundry.release import rollouts
    from drivefoundry.runs import named

    if options.allow_failed and not options.cohort:
        raise ValueError("release publish: --allow-failed is for test cars: name their --cohort")
    cohort = options.cohort or "all"
    engine = named.engine(options.engine or options.where)
    verdict = named.verdict(options.verdict or options.engine or options.where)

    def change(repo: Path, keys: Keys) -> Cohort:
        turn = named.turn_of(made) if (made := named.resolved(engine).artefact) else None
        name = options.name or (f"turn-{turn}" if turn else engine.name)
        sign(repo, keys, engine, verdict, name, cohort, options.percent, allow_failed=options.allow_failed)
        return rollouts(repo)[cohort]

    return _changed(options, change)


def renew(options: RenewOptions) -> Outcome:
    """`release renew`: renew signatures past half their lifetime; run it daily."""
    from drivefoundry.release import renew as change

    with ExitStack() as stack:
        repo, keys = _at(options, stack)
        made = change(repo, keys)
    signed = ", ".join(made.signed) or "nothing"
    lines = [f"{'would sign' if options.dry_run else 'signed'} {signed}"]
    lines += [f"{role} is due: bring its keys before {at:%Y-%m-%d}" for role, at in made.waiting.items()]
    data = {"signed": made.signed, "waiting": {role: at.isoformat() for role, at in made.waiting.items()}}
    return Outcome("\n".join(lines), data)


def keys(options: KeysOptions) -> Outcome:
    """`release keys`: each role's version, expiry, quorum and keys, and which keys are at hand."""
    from drivefoundry.release import roles
    from drivefoundry.runs.repository import keys_of, to_read

    repo = to_read(options.where)
    found = roles(repo, keys_of(options.where, options.keys, options.online))
    lines = [f"{'role':10} {'version':>7}  {'expires':10}  signatures  keys (* at hand)"]
    for role, signed in found.items():
        held = " ".join(keyid[:SHORT] + "*" * there for keyid, there in signed.keys.items())
        quorum = f"{signed.threshold} of {len(signed.keys)}"
        lines.append(f"{role:10} {signed.version:7}  {signed.expires:%Y-%m-%d}  {quorum:10}  {held}")
    return Outcome(
        "\n".join(lines), {role: {**asdict(t), "expires": t.expires.isoformat()} for role, t in found.items()}
    )


def rotate(options: RotateOptions) -> Outcome:
    """`release rotate`: replace the keys of some roles, in a new root; the old ones become invalid."""
    from drivefoundry.release import roles
    from drivefoundry.release import rotate as change
    from drivefoundry.runs.repository import changing, keys_of, to_read

    if not options.role:
        raise ValueError("release rotate: give --role root, --role targets or --role online")
    held = keys_of(options.where, options.keys, options.online)
    every = [keyid for signed in roles(to_read(options.where), held).values() for keyid in signed.keys]
    only = [_key(every, begins) for begins in options.only]
    if options.dry_run:
        what = f"{len(only)} of the" if only else "all"
        return Outcome(f"would replace {what} keys of {', '.join(options.role)}", {"roles": options.role, "only": only})
    with changing(options.where) as repo:
        made = change(repo, held, options.role, quorum=_quorum(options.quorum), only=only)
    lines = [f"root version {made.version}"]
    lines += [f"{role}: retired {' '.join(k[:SHORT] for k in gone)}" for role, gone in made.retired.items()]
    lines += [f"made {path}" for path in made.made]
    return Outcome("\n".join(lines), asdict(made))


def new(options: NewOptions) -> Outcome:
    """`release new`: create an empty repository, its keys, and the root.json to ship with cars."""
    from drivefoundry.release import create_repository
    from drivefoundry.runs.repository import keys_of

    if not options.keys:
        raise ValueError("release new: give --keys DIR, once for each offline medium")
    held, quorum = keys_of(options.where, options.keys, options.online), _quorum(options.quorum)
    if options.where.is_file() or (options.where.is_dir() and any(options.where.iterdir())):
        raise ValueError(f"{options.where}: already exists; give a new directory")
    if not options.dry_run:
        create_repository(options.where, held, quorum=quorum)
    root = options.where / "metadata" / "1.root.json"
    would = "would make" if options.dry_run else "made"
    return Outcome(f"{would} {options.where}; ship {root} with every car", {"repository": options.where, "root": root})


def _at(options: KeysOptions, stack: ExitStack) -> tuple[Path, Keys]:
    """The repository that a verb changes (a temporary copy with --dry-run), and its keys."""
    from drivefoundry.runs.repository import changing, keys_of, to_read, tried

    held = keys_of(options.where, options.keys, options.online)
    if getattr(options, "dry_run", False):
        return stack.enter_context(tried(to_read(options.where))), held
    return stack.enter_context(changing(options.where)), held


def _changed(options: KeysOptions, change: Callable[[Path, Keys], Cohort]) -> Outcome:
    """Change a roll-out, or try the change, and format the result."""
    with ExitStack() as stack:
        repo, held = _at(options, stack)
        made = change(repo, held)
        name = _found(repo, made.release).name
    dry = getattr(options, "dry_run", False)
    rest = f", {made.previous} to the others" if made.previous else ""
    text = f"{made.release} ({name}) to {made.rollout_percent} % of its cohort{rest}{', halted' * made.halted}"
    data: dict[str, Any] = {**asdict(made), "dry_run": dry}
    return Outcome(f"would publish: {text}" if dry else text, data)


def _cohort(repo: Path, given: str) -> str:
    """The given cohort, else the only one with a release, else that of all cars."""
    from drivefoundry.release import rollouts

    there = [*rollouts(repo)]
    if given or "all" in there or not there:
        return given or "all"
    if len(there) > 1:
        raise ValueError(f"cohorts {', '.join(there)} have releases: give --cohort")
    return there[0]


def _two(where: Path, second: str) -> tuple[Path, str]:
    """WHERE and the second argument; WHERE's default if only the latter was given."""
    usual = WhereOptions().where
    if second or where.exists() or ":" in str(where) or not usual.exists():
        return where, second
    return usual, str(where)


def _found(repo: Path, which: str) -> Release:
    """Find a release by id, prefix of an id, or name (the newest of that name); by default the newest."""
    from drivefoundry.release import releases

    every = releases(repo)
    found = [r for r in every if not which or r.name == which or r.id == which] or [
        r for r in every if len(which) >= 4 and r.id.startswith(which)
    ]
    if not found:
        held = ", ".join(f"{r.id} ({r.name})" for r in every) or "none"
        raise ValueError(f"{repo}: no release {which or 'yet'}; it holds {held}")
    if which and len({r.cohort for r in found}) > 1:
        raise ValueError(f"{which}: {', '.join(f'{r.id} of cohort {r.cohort}' for r in found)}; give the id")
    return found[-1]


def _place(made: Release, runs: Cohort | None) -> str:
    if runs is None or made.id not in (runs.release, runs.previous):
        return ""
    if made.id == runs.previous:
        return f"  the others{'' if runs.halted else f' ({100 - runs.rollout_percent} %)'}"
    return f"  current, {runs.rollout_percent} %{', halted' * runs.halted}"


def _key(every: list[str], begins: str) -> str:
    found = [keyid for keyid in every if keyid.startswith(begins)]
    if len(found) != 1:
        raise ValueError(f"--only {begins}: {len(found)} keys match; `drivefoundry release keys` lists them")
    return found[0]


def _quorum(given: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    out = {}
    for each in given:
        role, _, counts = each.partition("=")
        needed, _, of = counts.partition("/")
        if not (needed.isdecimal() and of.isdecimal()):
            raise ValueError(f"--quorum {each}: give ROLE=N/M, such as targets=2/3")
        out[role] = (int(needed), int(of))
    return out
