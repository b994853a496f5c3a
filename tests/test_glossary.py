"""Check that code, messages and docs keep to docs/glossary.md."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = ("src", "car", "tests", "benchmarks", "tools", "docs")
PAGES = ("README.md", "AGENTS.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".h", ".cpp", ".toml", ".html")
FORMULA = re.compile(r"^(?=.{40})[A-Z].* in, .* out\.$")
"""A first line such as "A folder of drives and how many to take in, the drives that can be read out."."""


def terms() -> list[tuple[str, str]]:
    """(first, last) cell of each row of the glossary's tables."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in GLOSSARY.read_text().splitlines()]
    return [(row[0], row[-1]) for row in rows if len(row) in (2, 3) and row[0] not in ("term", "write", "---")]


AVOID = sorted({word for _, avoid in terms() for word in re.findall(r"`([^`]+)`", avoid)})
GAP = r"\s+(?:#\s*)?"
PATTERN = re.compile(r"\b(?:" + "|".join(word.replace(" ", GAP) for word in AVOID) + r")\b", re.I)


def prose(path: Path) -> list[tuple[int, str]]:
    """(line, text) of comments and strings in Python, of the whole file in anything else."""
    text = path.read_text()
    if path.suffix != ".py":
        return [(1, text)]
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return [(t.start[0], t.string) for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type in kinds]


def offences(path: Path) -> list[str]:
    found = [
        f"{path.relative_to(ROOT)}:{line + text.count(chr(10), 0, m.start())}: {m[0]!r}"
        for line, text in prose(path)
        for m in PATTERN.finditer(text)
    ]
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                first = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
                if FORMULA.match(first):
                    found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {first!r}")
    return found


def files() -> list[Path]:
    skipped = (GLOSSARY, Path(__file__))
    found = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*")) if f.suffix in SUFFIXES]
    found = [f for f in found if not any(p.startswith(".") or p in ("build", "node_modules") for p in f.parts[3:])]
    return [f for f in [*found, *(ROOT / page for page in PAGES)] if f not in skipped]


def test_prose_avoids_the_words_that_the_glossary_lists():
    found = [offence for file in files() for offence in offences(file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'raise ValueError(f"{path}: a folder wanted, got a file")',
        '"""Scenes and how long to drive them in, what each driver did out."""',
        "x = 1  # told by the car",
        'y = """two\nlines that hang on\neach other"""',
    ],
)
def test_offences_are_found(tmp_path, monkeypatch, source):
    monkeypatch.setattr("test_glossary.ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(source)
    assert offences(tmp_path / "bad.py")


def test_the_glossary_is_read():
    names = [term for term, _ in terms()]
    assert {"Drive", "Clip", "Scene", "Episode", "Verdict", "predicted"} <= set(names)
    assert {"wanted", "told", "samples without weight"} <= set(AVOID)
    assert len(names) == len(set(names))
