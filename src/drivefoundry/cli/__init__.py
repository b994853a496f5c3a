"""Command line: find the verb in the table, parse its options, run it, print its outcome and return an exit status."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from drivefoundry.cli.shell.manual import manual, usage
from drivefoundry.cli.verbs import FIRST_TURN, PROG, STAGES, VERBS, Outcome, Verb, first_words, nouns, subcommands
from drivefoundry.settings import nearest

__all__ = ["main"]
_USER_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EADDRINUSE, errno.EACCES, errno.EROFS, errno.EPERM,
               errno.ENAMETOOLONG, errno.ELOOP}  # fmt: skip
_HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command (default: the process's arguments). Exit status: 0 done, 1 judged and a gate failed, 2 refused with
    one line on stderr, 130 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb: Verb | None = None
    try:
        verb, rest = _chosen(words)
        return _run(verb, rest) if verb else 0
    except KeyboardInterrupt:
        resumes = verb is not None and verb.resumes
        return _refuse("stopped; the same command resumes" if resumes else "stopped", 130)
    except ValueError as error:
        if os.environ.get("DRIVEFOUNDRY_TRACEBACK"):
            raise
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has closed it; discard what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        plain = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, ConnectionError))
        if os.environ.get("DRIVEFOUNDRY_TRACEBACK") or not (plain or error.errno in _USER_ERRNO):
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{name}{error.strerror or error}")
    except ImportError as error:
        if "shared object file" not in str(error):
            raise
        return _refuse(
            f"{str(error).split(':')[0]} is missing on this machine; install the system package that provides it"
        )


def _refuse(text: str, code: int = 2) -> int:
    print(f"{PROG}: {' '.join(text.split())}", file=sys.stderr)
    return code


def _chosen(words: list[str]) -> tuple[Verb | None, list[str]]:
    """The verb that the words name, and its arguments; None if help was requested (and shown)."""
    while words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in _HELP:
        print(manual())
        return None, []
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"{PROG} {version(PROG)}")
        return None, []
    first, rest = words[0], words[1:]
    if first in nouns():
        return _within(first, rest)
    if first in VERBS:
        return VERBS[first], rest
    raise ValueError(_unknown(first))


def _within(noun: str, rest: list[str]) -> tuple[Verb | None, list[str]]:
    """Resolve the verb of a noun with subcommands; a noun may also be a verb itself."""
    if rest and f"{noun} {rest[0]}" in VERBS:
        return VERBS[f"{noun} {rest[0]}"], rest[1:]
    own = VERBS.get(noun)
    near = nearest(rest[0], subcommands(noun)) if rest else ""
    suggestion = f" ({near})" if near.startswith("did you mean") else ""
    if own and suggestion and not os.path.exists(rest[0]):
        raise ValueError(f"{noun}: unknown subcommand {rest[0]!r}{suggestion}; {_known(noun)}")
    if own and (rest or not own.takes):
        if rest[:1] and rest[0] in _HELP:
            print(usage(noun) + "\n")
        return own, rest
    if not rest or rest[0] in _HELP:
        print(usage(noun))
        return None, []
    if rest[0].startswith("-") and noun in STAGES:
        raise ValueError(f"{noun}: {_stage(noun)}; {_known(noun)}")
    raise ValueError(f"{noun}: unknown subcommand {rest[0]!r}{suggestion}; {_known(noun)}")


def _known(noun: str) -> str:
    return f"usage: {PROG} {noun} {'|'.join(subcommands(noun))} [options]"


def _stage(name: str) -> str:
    turn = " --loops 1" if name in FIRST_TURN else ""
    return f"this stage is part of the loop: use `{PROG} run --until {name}{turn}`"


def _unknown(word: str) -> str:
    stage = "distil" if word == "distill" else word
    if stage in STAGES:
        return f"{word}: {_stage(stage)}"
    if word == "version":
        return f"unknown verb 'version': did you mean `{PROG} --version`?"
    near = nearest(word, [*first_words(), "help", *STAGES])
    if near.startswith("did you mean"):
        suggestion = near.split("'")[1]
        verb = f"run --until {suggestion}" if suggestion in STAGES else suggestion
        return f"unknown verb {word!r}: did you mean {verb!r}?"
    return f"unknown verb {word!r}: see `{PROG} --help`"


def _run(verb: Verb, rest: list[str]) -> int:
    from drivefoundry.cli.options import named, parse

    options = parse(verb, rest)
    if options is None:
        return 0
    with _messages(options.json, getattr(options, "quiet", False)):
        outcome: Outcome | None = named(verb.run)(options)
    if outcome is None:
        return 0
    if options.json:
        print(json.dumps(_plain(outcome.data), indent=1, allow_nan=False))
    elif outcome.text:
        print(outcome.text)
    return outcome.code


def _plain(value: Any) -> Any:
    """Convert a value for JSON: paths to text, numpy numbers to Python's, numbers that are not finite to null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


@contextlib.contextmanager
def _messages(as_json: bool, quiet: bool) -> Iterator[None]:
    """Redirect progress and messages: to stderr beside a JSON document, nowhere if quiet."""
    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if quiet:
            from drivefoundry import progress

            stack.enter_context(progress.silent())
        yield
