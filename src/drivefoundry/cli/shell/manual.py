"""Help texts of the command line, generated from the table of verbs."""

from __future__ import annotations

import drivefoundry
from drivefoundry.cli.verbs import GROUPS, PROG, STAGES, VERBS, Verb, subcommands

EXAMPLES = (
    ("run", "all turns of the default recipe, in ./out"),
    ("run --recipe tiny --out try", "the same loop in 1 to 3 minutes"),
    ("run --drives my-drive/", "train on your own road-camera drives"),
    ("campaign test my.toml out", "where a run's drives would have fired these rules"),
    ("plan --model 8b --days 30", "requirements and cost of a training run"),
    ("judge compare out1 out2", "two runs' last verdicts, scene by scene"),
)


def manual() -> str:
    """Text of `--help`."""
    wide = max(map(len, VERBS))
    lines = [f"usage: {PROG} VERB [options]", "", (drivefoundry.__doc__ or "").partition("\n")[0]]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb.name:{wide}}  {verb.what}" for verb in verbs)]
    lines += ["", f"Stages, for `{PROG} run --until STAGE`:", *stages_text(), ""]
    lines += ["Examples:", *(f"  {PROG} {words:29}{what}" for words, what in EXAMPLES), ""]
    return "\n".join([
        *lines,
        f"{PROG} help VERB, or VERB --help, shows a verb's options and examples.",
        "Exit status: 0 done, 1 judged and a gate failed, 2 refused with one line that says why, 130 stopped.",
    ])  # fmt: skip


def stages_text() -> list[str]:
    """One line per stage."""
    return [f"  {name:8} {what}" for name, what in STAGES.items()]


def usage(noun: str) -> str:
    """Text for a noun alone: its subcommands."""
    rows = [(synopsis(v), v.what) for v in VERBS.values() if v.name.split()[0] == noun]
    wide = max(len(s) for s, _ in rows)
    lines = ["usage:", *(f"  {s:{wide}}  {what}" for s, what in rows), ""]
    if noun in STAGES:
        lines.append(f"The stage of this name is part of the loop: {PROG} run --until {noun}")
    first = subcommands(noun)[0]
    return "\n".join([*lines, f"{PROG} {noun} {first} --help shows its options and examples."])


def synopsis(verb: Verb) -> str:
    """Program, verb and its positional arguments."""
    return f"{PROG} {verb.name} {verb.takes}".rstrip()


def table() -> str:
    """All verbs as a Markdown table, for the docs."""
    rows = (f"| `{f'{v.name} {v.takes}'.strip()}` | {v.what} |" for v in VERBS.values())
    return "\n".join(["| verb | what it does |", "|---|---|", *rows])


def stages_table() -> str:
    """All stages as a Markdown table, for the docs."""
    return "\n".join(["| stage | what it does |", "|---|---|", *(f"| `{n}` | {what} |" for n, what in STAGES.items())])
