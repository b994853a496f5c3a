"""The loop once more in a process of its own, beside a busy one; which functions ran in which build, as JSON.

python tests/traced.py OUT FILE
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from drivefoundry import cli
from drivefoundry.ledger import Ledger
from drivefoundry.sources import BESIDE, ROOTS, closure
from loop import SMALL

OUTSIDE = (*BESIDE, "drivefoundry_car.moved")
"""What no closure holds; `moved` is a part of the import system."""
REPORTS = "drivefoundry.progress"
"""What it calls is outside as well: it reports by the clock, so a build enters it on a slow machine only."""
ran: defaultdict[str, set[str]] = defaultdict(set)
missing: defaultdict[str, set[str]] = defaultdict(set)
make = Ledger.make
PREFIXES = tuple(f"{root}." for root in ROOTS)


def reports(frame: FrameType | None) -> bool:
    """Whether a call comes from progress reporting."""
    while frame is not None:
        if frame.f_globals.get("__name__") == REPORTS:
            return True
        frame = frame.f_back
    return False


def watched(self: Ledger, kind: str, recipe: Any, parents: Any, code: str, build: Any) -> Any:
    """`Ledger.make`, its build watched."""
    entered: set[tuple[str, str]] = set()

    def enter(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code.co_filename.startswith("<"):  # dataclasses' own methods have no source
            return
        found = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        if found not in entered and found[0].startswith(PREFIXES) and not reports(frame):
            entered.add(found)

    def traced(out: Path) -> Any:
        sys.setprofile(enter)
        threading.setprofile(enter)
        try:
            return build(out)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    made = make(self, kind, recipe, parents, code, traced)
    names = {
        f"{module}:{name.partition('.')[0]}"
        for module, name in entered
        if module not in OUTSIDE and not name.startswith("<")
    }
    ran[kind] |= names
    missing[kind] |= names - set(closure(build))
    return made


if __name__ == "__main__":
    Ledger.make = watched  # type: ignore[method-assign]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        code = cli.main(["run", "--out", sys.argv[1], *SMALL])
        hog.kill()
    told = [{kind: sorted(names) for kind, names in of.items()} for of in (ran, missing)]
    Path(sys.argv[2]).write_text(json.dumps(dict(zip(("ran", "missing"), told, strict=True))))
    sys.exit(code)
