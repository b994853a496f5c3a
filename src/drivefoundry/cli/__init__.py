"""Command line in, exit code out: one verb a stage, one line an error. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from drivefoundry.cli.verbs import OWN, PROG, VERBS, WITHIN, manual
from drivefoundry.settings import nearest

__all__ = ["main"]
_USER_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EADDRINUSE, errno.EACCES, errno.EROFS, errno.EPERM}


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
        plain = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, ConnectionError))
        if os.environ.get("DRIVEFOUNDRY_TRACEBACK") or not (plain or error.errno in _USER_ERRNO):
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
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(manual())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"{PROG} {version(PROG)}")
        return 0
    verb, rest = argv[0], argv[1:]
    verbs = [verb for group in VERBS.values() for verb in group]
    if verb not in verbs:
        raise ValueError(f"unknown verb {verb!r}: {nearest(verb, verbs)}")
    if (verb, *rest[:1]) in WITHIN:
        module, _, function = WITHIN[verb, rest[0]].partition(".")
        getattr(import_module(f"{__name__}.{module}"), function or "run")(rest[1:])
    elif verb in OWN:
        import_module(f"{__name__}.{verb}").run(rest)
    else:
        import_module(f"{__name__}.stage").run(verb, rest)
    return 0
