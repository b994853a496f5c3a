"""Sizes that keep the code readable: lines of a file and of a function, parameters, entries of a folder."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "src" / "drivefoundry", ROOT / "car" / "src" / "drivefoundry_car")
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_ENTRIES = 400, 60, 8, 12
BUILT = {"__pycache__", "_kernels.so"}
"""What a build leaves in a folder."""
KERNELS = {"njit", "kernel", "inlined"}
"""Decorators of numba's kernels, which take arrays one by one and hold their loops in one piece."""


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {node.id for d in function.decorator_list for node in ast.walk(d) if isinstance(node, ast.Name)}
    names |= {node.attr for d in function.decorator_list for node in ast.walk(d) if isinstance(node, ast.Attribute)}
    return bool(names & KERNELS)


def functions(file: Path) -> list[tuple[str, int, int]]:
    """Name (of a method with its class), lines and parameters of each function outside kernels."""
    found = []

    def visit(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_kernel(child):
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                asked = child.args
                names = [a.arg for a in (*asked.posonlyargs, *asked.args, *asked.kwonlyargs)]
                lines = (child.end_lineno or child.lineno) - child.lineno + 1
                found.append((f"{owner}{child.name}", lines, len([n for n in names if n not in ("self", "cls")])))
            visit(child, f"{child.name}." if isinstance(child, ast.ClassDef) else "")

    visit(ast.parse(file.read_text()), "")
    return found


def test_files_are_short():
    long = {
        str(f.relative_to(ROOT)): n
        for f in sources("src", "car", "tests", "benchmarks", "tools")
        if (n := len(f.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def place(file: Path) -> str:
    """Path below its package, or below the root outside the packages."""
    return next((str(file.relative_to(p)) for p in PACKAGES if p in file.parents), str(file.relative_to(ROOT)))


def test_functions_are_short_and_take_few_parameters():
    every = [(f"{place(f)}:{name}", *of) for f in sources("src", "car", "tools") for name, *of in functions(f)]
    assert len(every) > 1000
    assert {name for name, lines, _ in every if lines > MOST_FUNCTION_LINES} == set()
    assert {name for name, _, parameters in every if parameters > MOST_PARAMETERS} == set()


def test_folders_are_small():
    full = {}
    for package in PACKAGES:
        folders = [f for f in package.rglob("*") if f.is_dir() and f.name not in BUILT]
        assert folders
        for folder in folders:
            entries = {p.name for p in folder.iterdir()} - BUILT
            if len(entries) > MOST_ENTRIES:
                full[str(folder.relative_to(ROOT))] = len(entries)
    assert full == {}
