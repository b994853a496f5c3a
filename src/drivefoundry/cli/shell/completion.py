"""`completion`: a shell script that makes TAB complete verbs, subcommands, options and their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, flags, named, positionals
from drivefoundry.cli.verbs import PROG, STAGES, VERBS, Outcome, first_words, nouns, subcommands

_VALUES = {"--until": tuple(STAGES), "--recipe": ("default", "tiny")}
"""Values of options without a Literal type, because they are checked later or may also be a file."""


@dataclass(frozen=True)
class CompletionOptions(Common):
    """What `completion` takes."""

    shell: Annotated[tyro.conf.Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL")]
    """bash, zsh or fish."""


def run(options: CompletionOptions) -> Outcome:
    """`completion`: print the script for the shell to load."""
    script = fish() if options.shell == "fish" else bash()
    if options.shell == "zsh":
        script = f"#compdef {PROG}\nautoload -U +X bashcompinit && bashcompinit\n{script}"
    return Outcome(script, {"shell": options.shell, "script": script})


def bash() -> str:
    """A completion function and its registration; falls back to file names."""
    after_noun = "\n".join(f"    {noun}) words={_quoted(subcommands(noun))} ;;" for noun in nouns())
    per_verb, per_value = [], []
    for name, verb in VERBS.items():
        shape = named(verb.options)
        own = [v for values in positionals(shape).values() for v in values]
        per_verb.append(f"    {_quoted([name])}) words={_quoted([*flags(shape), '--help'])}; own={_quoted(own)} ;;")
        for flag, values in (_VALUES | {f: v for f, v in flags(shape).items() if v}).items():
            if flag in flags(shape):
                per_value.append(
                    f'    {_quoted([f"{name} {flag}"])}) COMPREPLY=($(compgen -W {_quoted(values)} -- "$cur")) ;;'
                )
    return _BASH.format(
        prog=PROG, first=_quoted([*first_words(), "help", "--help", "--version"]), nouns=after_noun,
        verbs="\n".join(per_verb), values="\n".join(per_value),
    )  # fmt: skip


_BASH = """_{prog}() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} first=1 verb words="" own=""
  COMPREPLY=()
  if [[ ${{COMP_WORDS[1]}} == help ]]; then first=2; fi
  if (( COMP_CWORD == first )); then
    COMPREPLY=($(compgen -W {first} -- "$cur"))
    return
  fi
  verb=${{COMP_WORDS[first]}}
  case $verb in
{nouns}
  esac
  if [[ -n $words ]]; then
    if (( COMP_CWORD == first + 1 )) && [[ $cur != -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
    if [[ " $words " == *" ${{COMP_WORDS[first+1]:-}} "* ]] && (( COMP_CWORD > first + 1 )); then
      verb="$verb ${{COMP_WORDS[first+1]}}"
    fi
  fi
  words=""
  case $verb in
{verbs}
  esac
  case "$verb $prev" in
{values}
    *)
      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur"))
      elif [[ -n $own ]]; then COMPREPLY=($(compgen -W "$own" -- "$cur")); fi ;;
  esac
}}
complete -o bashdefault -o default -F _{prog} {prog}"""


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    return "'" + " ".join(words) + "'"


def fish() -> str:
    """One `complete` line per verb, subcommand and option."""
    lines = [f"complete -c {PROG} -n __fish_use_subcommand -a help -d 'show help'"]
    for word in first_words():
        what = VERBS[word].what if word in VERBS else ", ".join(subcommands(word))
        lines.append(f"complete -c {PROG} -n __fish_use_subcommand -a {word} -d {_escaped(what)}")
    for name, verb in VERBS.items():
        seen = " and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        if " " in name:
            noun, sub = name.split()
            others = " ".join(subcommands(noun))
            when = f"__fish_seen_subcommand_from {noun}; and not __fish_seen_subcommand_from {others}"
            lines.append(f"complete -c {PROG} -n '{when}' -a {sub} -d {_escaped(verb.what)}")
            seen = f"__fish_seen_subcommand_from {noun}; and __fish_seen_subcommand_from {sub}"
        shape = named(verb.options)
        for values in positionals(shape).values():
            lines += [f"complete -c {PROG} -f -n '{seen}' -a '{' '.join(values)}'"] if values else []
        for flag, choices in flags(shape).items():
            values = choices or _VALUES.get(flag, ())
            takes = f" -x -a '{' '.join(values)}'" if values else ""
            option = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            lines.append(f"complete -c {PROG} -n '{seen}' {option}{takes}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"
