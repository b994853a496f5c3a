"""Command line in, exit code out: one verb a stage, one line an error. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import arg

from drivefoundry.settings import nearest, with_file, with_settings

PROG = "drivefoundry"
T = TypeVar("T", "Options", "RunOptions", "ListOptions", "ShowOptions", "CityOptions", "ServeOptions")

VERBS: dict[str, dict[str, str]] = {
    "The whole loop": {
        "run": "record, learn, judge, release, drive and record again, turn after turn; then the report",
    },
    "One stage, and whatever it stands on that is not made yet": {
        "fleet": "a city full of cars records drives",
        "ingest": "clips around the triggers travel from the cars into the clip store",
        "import": "drives or scenes from elsewhere (--drives, --scenes) enter instead of the fleet's",
        "curate": "broken and near-duplicate clips out; training and test places kept apart",
        "label": "clips become episodes: scene facts, reasoning, decisions, future trajectory; and scenes",
        "train": "pre-train the base model, then fine-tune it with reasoning",
        "rl": "plans sampled in scenes cut from the clips; those that score higher become more likely",
        "distill": "a much smaller student learns from the model",
        "shrink": "the student becomes an int8 engine",
        "judge": "all models and baselines drive held-out scenes; `judge compare A B`: two verdicts",
        "release": "sign and publish the engine: to all cars if the gates let it, else to test cars",
    },
    "In the car": {
        "car": "update to the release: verify it, test it, activate it",
        "serve": "an engine (--engine) as AlpaSim's driver: the simulator asks it over gRPC",
    },
    "To look at": {
        "scene": "show or list the scenes of recorded traffic, or of a run's exam",
        "city": "many cars of one driver at once in a live city: faults a kilometre, and a film",
        "report": "write report.html of what the run has made, and make nothing else",
    },
}
_SCENE = {
    "show": "a scene as the camera would see it, beside the map: a picture, or a film (.mp4, .gif)",
    "list": "a table of scenes: id, source, seconds, agents, lights, ego",
}
_ONE_TURN = ("fleet", "ingest", "curate", "label", "train", "rl", "distill", "shrink")
"""Stages that end in the first turn, unless --loops says otherwise."""
_EXAMPLES = (
    ("run", "all turns of the default recipe, in ./out"),
    ("run --recipe tiny --out /tmp/try", "the same line in about a minute"),
    ("run --drives my-drive/", "learn from your own road-camera drive"),
    ("run --set train.sft_steps=300", "any key of the recipe"),
    ("judge compare out1 out2", "two runs' last verdicts, scene by scene"),
)
_USER_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EADDRINUSE, errno.EACCES, errno.EROFS, errno.EPERM}


@dataclass(frozen=True)
class Options:
    """What every verb understands."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Run directory: made if missing, gone on with if there."""
    recipe: Annotated[str, arg(metavar="NAME|FILE")] = "default"
    """default, tiny, or a TOML file of changes to the default recipe."""
    loops: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Turns of the loop. A stage before the judge ends in the first turn where this is not given."""
    drives: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Real drives to learn from, instead of the embedded fleet's."""
    scenes: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Recorded traffic scenes to judge and improve on, instead of the embedded fleet's."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change one key of the recipe."""


@dataclass(frozen=True)
class RunOptions(Options):
    """What `run` understands besides."""

    until: Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="(default: all of them)")] = None
    """Last stage to run."""


@dataclass(frozen=True)
class ListOptions:
    """What `scene list` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="WHAT")]
    """File or folder of recorded traffic (CommonRoad, Waymo Open Motion, ScenarioNet), or directory of a run."""


@dataclass(frozen=True)
class ShowOptions(ListOptions):
    """What `scene show` understands."""

    scene: Annotated[str, arg(metavar="N|ID")] = "0"
    """Which of its scenes, as `scene list` names them."""
    at: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="(default: its start)")] = None
    """Step of the recording that a picture shows, 10 a second."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("scene.png")
    """*.png: a picture; *.mp4 or *.gif: a film."""


@dataclass(frozen=True)
class CityOptions:
    """What `city` understands."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="DRIVER")]
    """rules, constant-velocity, or a run directory, an engine or a checkpoint directory."""
    place: Annotated[str, arg(metavar="NAME")] = "place_e"
    """A city that comes with the package."""
    seed: int = 1
    """Of everything that the city draws."""
    cars: int = 24
    """That the driver drives."""
    others: int = 200
    """Vehicles that SUMO drives."""
    people: int = 80
    """Who walk."""
    seconds: float = 120.0
    """Of driving."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("city")
    """Gets city.json (what each car did) and city.mp4."""


@dataclass(frozen=True)
class ServeOptions:
    """What `serve` understands."""

    engine: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Engine directory: what `shrink` made, or a car's slot holds."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Where to listen; 0.0.0.0 for other machines, unix:///PATH for a socket."""
    port: Annotated[int, arg(metavar="N")] = 50051
    """The port there."""
    mode: Literal["alpasim", "carla"] = "alpasim"
    """Who asks: AlpaSim's runtime, or a CARLA one that speaks its contract."""
    camera: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The simulator's name of the front camera, where there are several."""
    speed_limit: Annotated[float, arg(metavar="M/S")] = 13.9
    """What the navigator says where the simulator names no limit."""
    rear_axle: Annotated[float, arg(metavar="M")] = 1.3
    """How far the rear axle, the simulator's origin of the car, lies behind the middle of its box."""


def main(argv: Sequence[str] | None = None) -> int:
    """Arguments in (default: the process's), exit code out: 0 done, 2 refused with one line on stderr, 130 stopped."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        return _refuse("stopped; the same command goes on from here", 130)
    except ValueError as error:
        if os.environ.get("DRIVEFOUNDRY_TRACEBACK"):
            raise
        return _refuse(str(error))
    except BrokenPipeError:  # who reads our output has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if os.environ.get("DRIVEFOUNDRY_TRACEBACK") or not (missing or error.errno in _USER_ERRNO):
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{name}{error.strerror or error}")
    except ImportError as error:
        if "shared object file" not in str(error):
            raise
        return _refuse(
            f"{str(error).split(':')[0]} is missing on this machine; install the system package that holds it"
        )


def _refuse(text: str, code: int = 2) -> int:
    print(f"{PROG}: {' '.join(text.split())}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    verbs = {verb: line for group in VERBS.values() for verb, line in group.items()}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"{PROG} {version(PROG)}")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in verbs:
        raise ValueError(f"unknown verb {verb!r}: {nearest(verb, verbs)}")
    if verb == "judge" and rest[:1] == ["compare"]:
        return _compare(rest[1:])
    others = {"scene": _scene, "city": _city, "serve": _serve}
    if verb in others:
        others[verb](rest)
        return 0
    options = _parse(RunOptions if verb == "run" else Options, verb, verbs[verb], rest)
    if options is None:
        return 0
    stages = [v for v in verbs if v not in ("run", "scene", "city", "report", "serve")]
    if isinstance(options, RunOptions) and options.until is not None and options.until not in stages:
        raise ValueError(f"--until {options.until}: no such stage; {nearest(options.until, stages)}")
    _run(options, verb)
    return 0


def _compare(paths: Sequence[str]) -> int:
    """Two verdicts, files or run directories, in; the table of what changed on stdout."""
    if len(paths) != 2 or any(p.startswith("-") for p in paths):
        raise ValueError("judge compare: give two verdict.json files or run directories")
    from drivefoundry.judge.compare import comparison_text
    from drivefoundry.judge.gate import load_verdict

    first, second = (load_verdict(_verdict_of(Path(p))) for p in paths)
    print(comparison_text(first, second))
    return 0


def _verdict_of(path: Path) -> Path:
    """The verdict itself, or the last one of a run directory."""
    if not (path / "ledger.db").exists():
        return path / "verdict.json" if path.is_dir() else path
    from drivefoundry.ledger import Ledger

    with Ledger(path) as ledger:
        verdicts = [a for a in ledger.history() if a.kind == "verdict"]
    if not verdicts:
        raise ValueError(f"{path}: no verdict in this run yet; run `{PROG} judge --out {path}` first")
    return verdicts[-1].path / "verdict.json"


def _run(options: Options, verb: str) -> None:
    """Recipe from the options, then the line."""
    until = options.until if isinstance(options, RunOptions) else None if verb == "report" else verb
    for name in ("drives", "scenes"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise ValueError(f"--{name} {path}: no such file or directory")
    if until == "import" and options.drives is None and options.scenes is None:
        raise ValueError("import: give --drives PATH or --scenes PATH")

    # Threads that spin while they wait slow down whatever shares the cores, several-fold; those that sleep cost little.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from drivefoundry import line, recipes  # torch and the rest come in here, not with --help

    if options.recipe.endswith(".toml"):
        recipe = with_file(recipes.named("default"), Path(options.recipe))
    else:
        recipe = recipes.named(options.recipe)
    if options.loops is not None:
        recipe = with_settings(recipe, [f"loops={options.loops}"])
    elif verb in _ONE_TURN:
        recipe = with_settings(recipe, ["loops=1"])
    recipe = with_settings(recipe, options.set)
    line.run(recipe, options.out, until=until, drives=options.drives, scenes=options.scenes, look=verb == "report")


def _scene(rest: list[str]) -> None:
    """`scene show` and `scene list`."""
    if not rest or rest[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {PROG} scene {name} WHAT   {what}" for name, what in _SCENE.items())
        print(f"usage:\n{verbs}\n\n{PROG} scene show --help shows the options.")
        return
    if rest[0] not in _SCENE:
        raise ValueError(f"scene {rest[0]}: {nearest(rest[0], _SCENE)}")
    shape = ShowOptions if rest[0] == "show" else ListOptions
    options = _parse(shape, f"scene {rest[0]}", _SCENE[rest[0]], rest[1:])
    if options is None:
        return
    from drivefoundry.stages import look

    scenes, refused = look.scenes_at(options.what)
    if isinstance(options, ShowOptions):
        look.show(look.chosen(scenes, options.scene), options.at, options.out)
        print(options.out)
    else:
        print(look.table(scenes))
        for file, why in refused.items():
            print(f"no scene of {file}: {why}", file=sys.stderr)


def _city(rest: list[str]) -> None:
    """`city`."""
    options = _parse(CityOptions, "city", VERBS["To look at"]["city"], rest)
    if options is None:
        return
    if min(options.cars, options.seconds) < 1 or min(options.others, options.people, options.seed) < 0:
        raise ValueError("city: at least one car and one second wanted, and no negative number")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from drivefoundry.stages import city

    made = city.drives(
        options.who, options.place, options.seed, options.cars, options.others, options.people, options.seconds
    )
    print(city.table(made))
    city.write(made, options.out)
    print(options.out / "city.mp4")


def _serve(rest: list[str]) -> None:
    """`serve`: an engine behind AlpaSim's contract, until the process is stopped."""
    options = _parse(ServeOptions, "serve", VERBS["In the car"]["serve"], rest)
    if options is None:
        return
    if options.engine is None:
        raise ValueError("serve: give --engine DIR")
    try:
        from drivefoundry_car.egodriver import load, serving
    except ImportError as error:
        raise ValueError(f"serve: {error}") from None

    driver = load(options.engine, camera=options.camera, speed_limit=options.speed_limit, axle=options.rear_axle)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serving(driver, options.host, options.port, options.mode):
        print(f"{options.engine} answers at {options.host}, port {options.port}, until it is stopped", flush=True)
        stop.wait()


def _parse(shape: type[T], verb: str, what: str, rest: list[str]) -> T | None:
    """Options of a verb, or None if its help was asked for (and shown). ValueError for anything not understood."""
    wrong = io.StringIO()
    try:
        with contextlib.redirect_stderr(wrong):
            options, unknown = tyro.cli(
                shape,
                prog=f"{PROG} {verb}",
                description=f"{what[0].upper()}{what[1:]}.",
                args=rest,
                return_unknown_args=True,
                config=(tyro.conf.UseAppendAction,),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ValueError(f"{verb}: {_first_sentence(wrong.getvalue())}") from None
    if unknown:
        flags = [f"--{f.name.replace('_', '-')}" for f in fields(shape) if f.name not in ("what", "who")]
        raise ValueError(f"{verb}: unknown option {unknown[0]!r}: {nearest(unknown[0].partition('=')[0], flags)}")
    return options


def _first_sentence(message: str) -> str:
    """What a framed message says before its first rule or gap, as one line; in ASCII a frame is only rules."""
    parts: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│ ")
        if text.startswith(("╭", "╰")):
            continue
        if set(text) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(text)
    said = [" ".join(part) for part in parts if part]
    return said[0 if "╭" in message else min(1, len(said) - 1)]  # an ASCII frame has its title on a line of its own


def _help() -> str:
    import drivefoundry

    lines = [f"usage: {PROG} VERB [options]", "", drivefoundry.__doc__ or "", ""]
    for group, verbs in VERBS.items():
        lines += [group + ":", *(f"  {verb:9}{what}" for verb, what in verbs.items()), ""]
    lines += ["Examples:", *(f"  {PROG} {command:34}{what}" for command, what in _EXAMPLES), ""]
    return "\n".join(
        [*lines, f"{PROG} VERB --help shows the options. Exit code 2: refused, with one line that says why."]
    )
