"""Sizes that keep the code readable: lines of a file and of a function, parameters, entries of a folder."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "src" / "drivefoundry", ROOT / "car" / "src" / "drivefoundry_car")
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_ENTRIES = 400, 60, 8, 12
BUILT = {"__pycache__", "_kernels.so", "_watch.so"}
"""What a build leaves in a folder."""
KERNELS = {"njit", "kernel", "inlined"}
"""Decorators of numba's kernels, which take arrays one by one and hold their loops in one piece."""


CALLS = {
    "Collector.__init__", "Uploader.__init__",  # a car's limits and intervals, keywords with defaults
    "Renderer.render", "Bev.render", "film",  # the state of a scene, array by array, as kernels and judges hold it
    "curate", "distil", "grpo", "pretrain", "publish", "record_supervised",  # options by keyword
    "_step", "_laid", "_traffic",  # one step of grpo; a layout's figures
}  # fmt: skip
"""Functions outside kernels with more parameters."""
LONG = {"Renderer.render", "send_home"}
"""Functions with more lines: most of the first are its docstring and checks of shapes, the second is one session of a
service with the cars that upload to it."""


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


def test_functions_are_short_and_take_few_parameters():
    every = {(str(f.relative_to(ROOT)), *one) for f in sources("src", "car", "tools") for one in functions(f)}
    assert len(every) > 1000
    long = {one for one in every if one[2] > MOST_FUNCTION_LINES}
    wide = {one for one in every if one[3] > MOST_PARAMETERS}
    assert {one for one in long if one[1] not in LONG} == set()
    assert {one for one in wide if one[1] not in CALLS} == set()
    assert {one[1] for one in long} == LONG, "an exception that is none any more"
    assert {one[1] for one in wide} == CALLS, "an exception that is none any more"


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
