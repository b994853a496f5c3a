"""Text tables (CSV) as people's own scripts write them: header and rows, each row with its line number."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from drivefoundry.types import require

SEPARATORS = ",;\t"


def header_of(path: Path) -> tuple[list[str], list[str]]:
    """Read the column names and the first row, both empty if there are none; never raises."""
    try:
        rows = _rows(path)
        _, names = next(rows, (0, []))
        _, first = next(rows, (0, []))
    except (UnicodeError, csv.Error):
        return [], []
    return names, first


def rows_of(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the column names, and (line number, cells) of each row.

    A byte order mark, blank lines, commas at the end of a line, spaces around cells, quotes, and `;` or tabs for commas
    make no difference. ValueError names the line that does not fit.
    """
    try:
        rows = list(_rows(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a table ({error}); copy it again") from None
    require(len(rows) > 0, f"{path}: empty; copy it again")
    (_, names), *rows = rows
    for line, cells in rows:
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        require(
            len(cells) == len(names),
            f"{path}: line {line}: {len(cells)} columns where the header has {len(names)}; copy it again",
        )
    return names, rows


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(Line number, cells) of all lines that are not blank, the header first."""
    with path.open(newline="", encoding="utf-8-sig") as f:
        head = next((line for line in f if line.strip()), "")
        separator = max(SEPARATORS, key=head.count)  # the first if tied
        f.seek(0)
        reader = csv.reader(f, delimiter=separator, skipinitialspace=True)
        begun = False
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not begun:
                while not cells[-1]:
                    cells.pop()
                begun = True
            yield reader.line_num, cells
