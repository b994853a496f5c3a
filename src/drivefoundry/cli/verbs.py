"""The verbs, and what each does."""

from __future__ import annotations

PROG = "drivefoundry"

VERBS: dict[str, dict[str, str]] = {
    "The whole loop": {
        "run": "record, learn, judge, release, drive and record again, turn after turn; then the report",
    },
    "One stage, and whatever it stands on that is not made yet": {
        "fleet": "a city full of cars records drives",
        "ingest": "clips around the triggers travel into the clip store; `ingest serve --help`: a service",
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
        "campaign": "what cars shall send home: check, test and replay it on old drives, see what it brought",
    },
    "To plan": {
        "plan": "cards, layout, days, storage and money of a training run; `plan cluster`: its goodput",
        "scale": "a grid of sizes and data trained, its scaling law; `scale fit RUNS`: that of other runs",
    },
    "To look at": {
        "scene": "show or list the scenes of recorded traffic, or of a run's exam",
        "city": "many cars of one driver at once in a live city: faults a kilometre, and a film",
        "model": "language models in, what a size or a model is, trained ones out: import, show, export",
        "report": "write report.html of what the run has made, and make nothing else",
    },
}
OWN = ("scene", "city", "serve", "campaign", "plan", "scale", "model")
"""Verbs that make nothing of the line; each is `run` of the module of its name."""
WITHIN = {
    ("judge", "compare"): "compare",
    ("plan", "cluster"): "cluster",
    ("scale", "fit"): "law",
    ("ingest", "serve"): "ingest.serve",
    ("ingest", "enrol"): "ingest.enrol",
    ("ingest", "revoke"): "ingest.revoke",
    ("ingest", "vehicles"): "ingest.listed",
}
"""A verb's own verbs -> module, with its function where that is not `run`."""
EXAMPLES = (
    ("run", "all turns of the default recipe, in ./out"),
    ("run --recipe tiny --out /tmp/try", "the same line in about a minute"),
    ("run --drives my-drive/", "learn from your own road-camera drive"),
    ("run --set train.sft_steps=300", "any key of the recipe"),
    ("campaign test my.toml out", "where a run's drives would have fired these rules"),
    ("plan --model 8b --days 30", "what a training run takes, and what it costs"),
    ("judge compare out1 out2", "two runs' last verdicts, scene by scene"),
)


def stages() -> list[str]:
    """The stages of the line, in the table's order."""
    return [v for group in VERBS.values() for v in group if v not in ("run", "report", *OWN)]


def manual() -> str:
    """What --help prints."""
    import drivefoundry

    lines = [f"usage: {PROG} VERB [options]", "", drivefoundry.__doc__ or "", ""]
    for group, verbs in VERBS.items():
        lines += [group + ":", *(f"  {verb:9}{what}" for verb, what in verbs.items()), ""]
    lines += ["Examples:", *(f"  {PROG} {command:34}{what}" for command, what in EXAMPLES), ""]
    return "\n".join(
        [*lines, f"{PROG} VERB --help shows the options. Exit code 2: refused, with one line that says why."]
    )
