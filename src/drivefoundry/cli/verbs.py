"""The verbs of the command line: help, completion, the docs' table and dispatch all use this table.

An entry names its options and its function as "module:name" within `drivefoundry.cli`, so that reading the table
imports nothing. `options` builds options from words, `run` takes them and returns an `Outcome` or None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PROG = "drivefoundry"


@dataclass(frozen=True)
class Verb:
    """One verb, or one subcommand of a noun.

    name: "run", "judge compare"; takes: its positional arguments, as usage shows them; what: one line; options, run:
    "module:name"; examples: (words after the program's name, what they do); resumes: True if the same command resumes
    an interrupted one.
    """

    name: str
    takes: str
    what: str
    options: str
    run: str
    examples: tuple[tuple[str, str], ...]
    resumes: bool = False


@dataclass(frozen=True)
class Outcome:
    """Result of a verb: text for people, data for `--json` (one JSON document), and the exit status."""

    text: str
    data: Any
    code: int = 0


STAGES = {
    "fleet": "record drives in a simulated city",
    "ingest": "cars upload clips around triggers into the clip store",
    "import": "import drives or scenes (--drives, --scenes) in place of the fleet's",
    "curate": "drop broken and near-duplicate clips; keep training and test places apart",
    "label": "turn clips into scenes and episodes: scene facts, reasoning, decisions, future trajectory",
    "train": "pre-train the base model, then fine-tune it with reasoning",
    "rl": "reinforcement learning on plans sampled in scenes cut from the clips",
    "distil": "train a much smaller student on the model's answers",
    "quantize": "quantise the student to an int8 engine",
    "judge": "drive held-out scenes with the engine, its float student, their teacher and baselines",
    "release": "sign and publish the engine: to all cars if it passes its gates, else to test cars",
    "car": "update a car to the release: verify, test and activate it",
}
"""Stages of the line, in order: what `run --until` takes."""
FIRST_TURN = ("fleet", "ingest", "curate", "label", "train", "rl", "distil", "quantize")
"""Stages that each turn has before its judge."""

_LOOP = (
    Verb(
        "run", "", "run the loop: record, learn, judge, release, drive, record again; report",
        "stage:RunOptions", "stage:run",
        (
            ("run", "all turns of the default recipe, in ./out"),
            ("run --recipe tiny --out try", "the same loop in 1 to 3 minutes"),
            ("run --until train --loops 1", "up to the first turn's fine-tuned model"),
            ("run --drives my-drive/", "train on your own road-camera drives"),
            ("run --set sft.steps=300", "change any key of the recipe"),
            ("run --dry-run", "what is up to date and what would be made"),
        ),
        resumes=True,
    ),
    Verb(
        "report", "[RUN]", "write report.html of a run, also while it is running",
        "stage:ReportOptions", "stage:report",
        (("report out", "write out/report.html"),),
    ),
)  # fmt: skip
_RUNS = (
    Verb(
        "ls", "[RUN]", "list a run's artefacts: turn, stage, size, seconds, ID, name",
        "inventory:ListOptions", "inventory:listed",
        (("ls out", "what the last run in ./out used"), ("ls out --all --json", "all artefacts")),
    ),
    Verb(
        "status", "[RUN]", "show a run's progress and disk usage",
        "inventory:StatusOptions", "inventory:status",
        (("status out", "also while it runs"), ("status out --verify", "which artefacts are damaged")),
    ),
    Verb(
        "gc", "[RUN]", "delete artefacts that the recipe of the last run does not need",
        "inventory:CollectOptions", "inventory:collect",
        (("gc out --dry-run", "what would be deleted, and how much space that frees"), ("gc out", "delete it")),
    ),
)  # fmt: skip
_JUDGE = (
    Verb(
        "judge", "WHO", "judge an engine, a model or a baseline on scenes or drives, training nothing",
        "driving.judging:JudgeOptions", "driving.judging:run",
        (
            ("judge out", "the newest engine of the run in ./out, on its exam"),
            ("judge out:sft:3 --scenes my-scenes/", "the third turn's fine-tuned model on recorded traffic"),
            ("judge out:model --drives my-drive/", "a camera model's errors, in open loop"),
            ("judge pdm-closed --scenes out --json", "a baseline, as JSON"),
        ),
    ),
    Verb(
        "judge compare", "A B", "compare two verdicts metric by metric and scene by scene",
        "driving.compare:CompareOptions", "driving.compare:run",
        (("judge compare out1 out2", "the last verdicts of two runs"),),
    ),
)  # fmt: skip
_CAR = (
    Verb(
        "serve", "", "serve an engine as AlpaSim's driver: the simulator asks it over gRPC",
        "driving.serve:ServeOptions", "driving.serve:run",
        (("serve --engine out", "the newest engine of the run in ./out"),),
    ),
    Verb(
        "ingest serve", "", "receive clips of enrolled vehicles into a clip store, until stopped",
        "fleet.ingest:ServeOptions", "fleet.ingest:serve",
        (("ingest serve --store clips --port 8080", "clips land in ./clips"),),
    ),
    Verb(
        "ingest enrol", "VEHICLE", "print a one-time code with which a vehicle enrols itself",
        "fleet.ingest:EnrolOptions", "fleet.ingest:enrol",
        (("ingest enrol car-7 --store clips", "a code for car-7, good for a day"),),
    ),
    Verb(
        "ingest revoke", "VEHICLE", "invalidate a vehicle's tokens, secrets and codes at once",
        "fleet.ingest:RevokeOptions", "fleet.ingest:revoke",
        (("ingest revoke car-7 --store clips", "refuse car-7 from its next request on"),),
    ),
    Verb(
        "ingest vehicles", "", "list the vehicles: scopes, bytes sent today, status",
        "fleet.ingest:VehiclesOptions", "fleet.ingest:listed",
        (("ingest vehicles --store clips", "one line per vehicle"),),
    ),
    Verb(
        "campaign check", "FILE", "check a campaigns file: settings, cost and signals of each rule",
        "fleet.campaign:CheckOptions", "fleet.campaign:check",
        (("campaign check library.toml", "the shipped campaigns"),),
    ),
    Verb(
        "campaign test", "FILE WHAT...", "run campaigns over drives, a store or a run: what fired, bytes a day",
        "fleet.campaign:TestOptions", "fleet.campaign:test",
        (("campaign test my.toml out", "where a run's drives would have fired these rules"),),
    ),
    Verb(
        "campaign replay", "FILE WHAT...", "replay recordings and upload their clips to a store or service",
        "fleet.campaign:ReplayOptions", "fleet.campaign:replay",
        (("campaign replay my.toml my-logs/ --store replayed", "the clips land in ./replayed"),),
    ),
    Verb(
        "campaign yield", "WHAT", "show what each campaign has yielded in a run or a clip store",
        "fleet.campaign:YieldOptions", "fleet.campaign:yielded",
        (("campaign yield out", "clips and bytes by campaign"),),
    ),
    Verb(
        "campaign sent", "STORE", "write embeddings of a store's clips, against which cars measure novelty",
        "fleet.campaign:SentOptions", "fleet.campaign:sent",
        (("campaign sent out --out sent.safetensors", "embeddings of a run's clips"),),
    ),
)  # fmt: skip
_RELEASE = (
    Verb(
        "release list", "[WHERE]", "list the releases of a repository or run, and who runs them",
        "fleet.release:WhereOptions", "fleet.release:listed",
        (("release list out", "the releases of the run in ./out"),),
    ),
    Verb(
        "release show", "[WHERE] [RELEASE]", "show one release: engine, verdict, gates, roll-out",
        "fleet.release:ShowOptions", "fleet.release:show",
        (("release show out turn-2", "the release of the second turn"),),
    ),
    Verb(
        "release publish", "[WHERE]", "sign an engine and its verdict, for a share of a cohort's cars",
        "fleet.release:PublishOptions", "fleet.release:publish",
        (("release publish out --name turn-2 --percent 10", "the run's newest engine, to a tenth of the cars"),),
    ),
    Verb(
        "release stage", "[WHERE] PERCENT", "widen or narrow the roll-out of a cohort's release",
        "fleet.release:StageOptions", "fleet.release:stage",
        (("release stage out 50", "half of the cars get it"),),
    ),
    Verb(
        "release halt", "[WHERE]", "stop a roll-out where it is: no further car gets the release",
        "fleet.release:CohortOptions", "fleet.release:halt",
        (("release halt out --cohort taxis", "cars that run it keep it"),),
    ),
    Verb(
        "release resume", "[WHERE]", "resume a halted roll-out",
        "fleet.release:CohortOptions", "fleet.release:resume",
        (("release resume out", "at the percentage that it had"),),
    ),
    Verb(
        "release rollback", "[WHERE] RELEASE", "make a former release current again for all cars of its cohort",
        "fleet.release:RollbackOptions", "fleet.release:rollback",
        (("release rollback out turn-1", "back to the first turn's"),),
    ),
    Verb(
        "release renew", "[WHERE]", "renew signatures past half their lifetime, so that cars do not refuse them",
        "fleet.release:RenewOptions", "fleet.release:renew",
        (("release renew repo --online online", "every day, with the online keys alone"),),
    ),
    Verb(
        "release keys", "[WHERE]", "show each role's version, expiry, quorum and keys",
        "fleet.release:KeysOptions", "fleet.release:keys",
        (("release keys out", "which keys are at hand, and what expires when"),),
    ),
    Verb(
        "release rotate", "[WHERE]", "replace keys in a new root; the old ones are revoked",
        "fleet.release:RotateOptions", "fleet.release:rotate",
        (("release rotate out --role online", "after a break-in where the online keys were"),),
    ),
    Verb(
        "release new", "WHERE", "create an empty repository and its keys",
        "fleet.release:NewOptions", "fleet.release:new",
        (
            ("release new repo --keys stick-1 --keys stick-2 --online online --quorum targets=2/2",
             "two sticks are needed to publish"),
        ),
    ),
)  # fmt: skip
_PLAN = (
    Verb(
        "plan", "", "plan cards, layout, days, storage and cost of a training run",
        "scaling.plan:PlanOptions", "scaling.plan:run",
        (
            ("plan --model 8b --days 30", "requirements and cost of a training run"),
            ("plan --model 8b --cards 512 --set mfu=0.45", "how long it takes on 512 cards"),
        ),
    ),
    Verb(
        "plan cluster", "", "simulate a cluster's failures, stragglers and checkpoints: its goodput",
        "scaling.cluster:ClusterOptions", "scaling.cluster:run",
        (("plan cluster --set cards=10000", "goodput of 10,000 cards"),),
    ),
    Verb(
        "scale run", "", "train a grid of model sizes and data amounts, then fit its scaling law",
        "scaling.scale:ScaleOptions", "scaling.scale:run",
        (("scale run --out grid", "every pair of scale.sizes and scale.samples"),),
        resumes=True,
    ),
    Verb(
        "scale fit", "RUNS", "fit the scaling law of training runs from elsewhere",
        "scaling.law:LawOptions", "scaling.law:run",
        (("scale fit runs.jsonl --out scale", "law.json and scaling.html in ./scale"),),
    ),
)  # fmt: skip
_LOOK = (
    Verb(
        "scene list", "WHAT", "list scenes: ID, source, seconds, agents, lights, ego",
        "driving.scene:ListOptions", "driving.scene:listed",
        (("scene list out", "the held-out scenes of a run"),),
    ),
    Verb(
        "scene show", "WHAT", "draw one scene as the camera sees it, beside the map: a picture or a film",
        "driving.scene:ShowOptions", "driving.scene:show",
        (
            ("scene show my-scenes/ --scene 3", "scene.png of the fourth scene"),
            ("scene show out --scene 007d8f --out drive.mp4", "a film of the scene with this ID"),
        ),
    ),
    Verb(
        "city", "DRIVER", "drive many cars in a live city: faults per kilometre, and a film",
        "driving.city:CityOptions", "driving.city:run",
        (("city out", "the newest engine of the run in ./out"), ("city rules --seconds 60", "the rule-based driver")),
    ),
    Verb(
        "model import", "BACKBONE", "build a model around a language model, as a checkpoint to train",
        "model:ImportOptions", "model:imported",
        (("model import smollm2 --out vla", "a checkpoint in ./vla"),),
    ),
    Verb(
        "model show", "MODEL", "show a model's parameters, memory and sequence",
        "model:ShowOptions", "model:show",
        (("model show out", "the run's newest model"), ("model show 4M", "a model of this size")),
    ),
    Verb(
        "model export", "MODEL", "write a trained model's language model for transformers or llama.cpp",
        "model:ExportOptions", "model:export",
        (("model export out --gguf model.gguf", "the run's newest model, for llama.cpp"),),
    ),
)  # fmt: skip
_SHELL = (
    Verb(
        "completion", "SHELL", "print a completion script for bash, zsh or fish",
        "shell.completion:CompletionOptions", "shell.completion:run",
        (("completion bash > ~/.local/share/bash-completion/completions/drivefoundry", "for every new bash"),),
    ),
)  # fmt: skip

GROUPS: dict[str, tuple[Verb, ...]] = {
    "The loop": _LOOP,
    "Runs": _RUNS,
    "Judging": _JUDGE,
    "Cars": _CAR,
    "Releases": _RELEASE,
    "Planning": _PLAN,
    "Looking": _LOOK,
    "Shell": _SHELL,
}
VERBS: dict[str, Verb] = {verb.name: verb for group in GROUPS.values() for verb in group}


def nouns() -> list[str]:
    """First words that have subcommands."""
    return list(dict.fromkeys(name.split()[0] for name in VERBS if " " in name))


def subcommands(noun: str) -> list[str]:
    """Second words after a noun, in the table's order."""
    return [name.split()[1] for name in VERBS if name.startswith(f"{noun} ")]


def first_words() -> list[str]:
    """All first words, in the table's order."""
    return list(dict.fromkeys(name.split()[0] for name in VERBS))
