"""The code that a function can run, as one hash: derived from the source, so that no list must be maintained.

The closure of a function consists of its own source and that of every function, class and constant of this project that
it names, and of those that these name in turn, across modules; nothing is imported for it. For each module of the
closure, the data files that it reads count as well, and the statements that run when it is imported. Comments,
docstrings and layout do not count, nor does the code in `BESIDE`, which affects how and when something is made, but not
what.

A name that is only formed at run time is followed if it is a constant: "drivefoundry.fleet.nets" stands for the whole
package, "campaigns.toml" for the file beside the module.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

ROOTS = ("drivefoundry", "drivefoundry_car")
BESIDE = (
    "drivefoundry.compute", "drivefoundry.disk", "drivefoundry.ledger", "drivefoundry.outputs", "drivefoundry.progress",
    "drivefoundry.recipes", "drivefoundry.settings", "drivefoundry.sources", "drivefoundry.stages.context",
    "drivefoundry.tracking",
)  # fmt: skip
"""Modules outside every closure; recipe values are part of a build's key anyway."""
_NOT_SOURCE = {".pyc", ".so", ".pyd", ".dylib", ".nbi", ".nbc", ".typed"}
_NATIVE = {".cpp", ".h"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Symbol = tuple[str, str]
"""Module and name; the name "" stands for what runs on import, "*" for everything."""


def code_hash(build: Callable[..., Any]) -> str:
    """sha256 over the closure of a function.

    For a nested function or a lambda, its whole enclosing function counts, and so do the functions and the classes of
    the objects that it captures. ValueError for a function of an installed library or without a source file.
    """
    digest = hashlib.sha256()
    for name, content in sorted(closure(build).items()):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def closure(build: Callable[..., Any]) -> dict[str, str]:
    """What `code_hash` covers: "module:name" or "file:path" -> hash of its content."""
    found: dict[str, str] = {}
    waiting = list(dict.fromkeys(_roots(build)))
    if not waiting:
        raise ValueError(f"{getattr(build, '__qualname__', build)}: no source file; define the function in a module")
    seen: set[Symbol] = set()
    while waiting:
        symbol = waiting.pop()
        if symbol in seen or symbol[0] in BESIDE:
            continue
        seen.add(symbol)
        content, files, named = _looked_up(symbol)
        if content:
            found[f"{symbol[0]}:{symbol[1]}"] = content
        found.update(files)
        waiting += named
    return found


def _roots(value: Any, depth: int = 0) -> Iterator[Symbol]:
    """Symbols at which the closure of a callable, or of a captured object, begins."""
    if depth > 4:
        return
    if isinstance(value, partial):
        for held in (value.func, *value.args, *value.keywords.values()):
            yield from _roots(held, depth + 1)
    elif isinstance(value, MethodType):
        yield from _roots(value.__func__, depth)
        yield from _roots(value.__self__, depth + 1)
    elif isinstance(value, FunctionType):
        if _ours(value.__module__):
            yield value.__module__, value.__qualname__.partition(".")[0]
        for held in (*(cell.cell_contents for cell in value.__closure__ or ()), *(value.__defaults__ or ())):
            yield from _roots(held, depth + 1)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _roots(held, depth + 1)
    else:
        of = value if isinstance(value, type) else type(value)
        if _ours(of.__module__):
            yield of.__module__, of.__qualname__.partition(".")[0]


def _ours(module: str) -> bool:
    """Whether a module belongs to this project or to the user, rather than to an installed library."""
    return module.partition(".")[0] in ROOTS or _users(module) is not None


@cache
def _users(module: str) -> Path | None:
    """The file of a loaded module that is not installed: a script, or a package beside it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not file.endswith(".py"):
        return None
    installed = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return None if any(Path(file).is_relative_to(folder) for folder in installed) else Path(file)


@dataclass
class _Module:
    """A parsed file. bound: top-level name -> the statements that bind it; imported: name -> module and name there;
    effects: other statements."""

    name: str
    path: Path
    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imported: dict[str, Symbol] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


@cache
def _looked_up(symbol: Symbol) -> tuple[str, dict[str, str], list[Symbol]]:
    """A symbol's own hash ("" if it is imported from elsewhere), data files with hashes, and the symbols it names."""
    module = _parsed(symbol[0])
    if module is None:
        return "", {}, []
    name = symbol[1]
    if name == "*":
        every = [(module.name, n) for n in (*module.bound, *module.imported)]
        return "", _beside(module), [*every, (module.name, "")]
    if name in module.imported and name not in module.bound:
        return "", {}, [module.imported[name], (module.name, "")]
    statements = module.effects if name == "" else module.bound.get(name, [])
    named = [symbol for statement in statements for symbol in _named(module, statement)]
    files = _mentioned(module, statements) | (_native(module) if name == "" else {})
    if not statements:
        return "", files, [*named, *([] if name == "" else [(module.name, "")])]
    text = "\n".join(ast.dump(statement) for statement in statements)
    return hashlib.sha256(text.encode()).hexdigest(), files, [*named, *([] if name == "" else [(module.name, "")])]


@cache
def _parsed(name: str) -> _Module | None:
    path = _file(name)
    if path is None:
        return None
    module = _Module(name, path)
    tree = ast.parse(path.read_text())
    _strip_docstrings(tree)
    for statement in tree.body:
        _sort_in(module, statement)
    return module


def _sort_in(module: _Module, statement: ast.stmt) -> None:
    """File a top-level statement under the names that it binds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        module.imported |= _imports(module, statement)
    elif isinstance(statement, _DEFINITIONS):
        module.bound.setdefault(statement.name, []).append(statement)
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        for name in names:
            module.bound.setdefault(name, []).append(statement)
        if any(not isinstance(t, ast.Name | ast.Tuple | ast.List) for t in targets):  # it modifies an existing object
            module.effects.append(statement)
    elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        pass
    elif not _is_text(statement):
        module.effects.append(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module.imported |= _imports(module, node)
            elif isinstance(node, _DEFINITIONS):
                module.bound.setdefault(node.name, []).append(statement)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                module.bound.setdefault(node.id, []).append(statement)


def _imports(module: _Module, statement: ast.Import | ast.ImportFrom) -> dict[str, Symbol]:
    """Local name -> symbol that an import of this project binds to it."""
    out: dict[str, Symbol] = {}
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if _ours(alias.name):
                out[alias.asname or alias.name] = alias.name, "*"
        return out
    origin = statement.module or ""
    if statement.level:
        package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
        origin = ".".join([*package[: len(package) - statement.level + 1], *filter(None, [statement.module])])
    if _ours(origin):
        for alias in statement.names:
            whole = f"{origin}.{alias.name}"
            out[alias.asname or alias.name] = (whole, "*") if _file(whole) else (origin, alias.name)
    return out


def _named(module: _Module, statement: ast.stmt) -> list[Symbol]:
    """Symbols that a statement names: globals, its own imports, members of modules, modules in constants."""
    local: dict[str, Symbol] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            local |= _imports(module, node)
    known = module.imported | local
    out: dict[Symbol, None] = {s: None for s in local.values() if s[1] != "*"}
    for node in _globals(statement, frozenset()):
        if isinstance(node, ast.Attribute):
            assert isinstance(node.value, ast.Name)
            target = known.get(node.value.id)
            if target is not None and target[1] == "*":
                inner = f"{target[0]}.{node.attr}"
                out[(inner, "*") if _file(inner) else (target[0], node.attr)] = None
                continue
            node = node.value
        if isinstance(node, ast.Name):
            if node.id in module.bound:
                out[module.name, node.id] = None
            if node.id in known:
                out[known[node.id]] = None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _ours(node.value) and _file(node.value):
            out[node.value, "*"] = None
    out |= {target: None for name, target in local.items() if target[1] == "*" and "." in name}
    return list(out)


def _globals(node: ast.AST, local: frozenset[str]) -> Iterator[ast.Name | ast.Attribute | ast.Constant]:
    """Names, and attributes of names, that refer to something outside the enclosing function; and dotted strings."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        a = node.args
        inner = {p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))}
        body = node.body if isinstance(node.body, list) else [node.body]
        inside = local | inner | _stored(body)
        outside = [n for n in ast.iter_child_nodes(node) if n not in body]
        for part in outside:
            yield from _globals(part, local)
        for part in body:
            yield from _globals(part, inside)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        first = node.generators[0].iter
        yield from _globals(first, local)
        inside = local | {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        for part in ast.iter_child_nodes(node):
            for n in [part] if not isinstance(part, ast.comprehension) else [part.target, *part.ifs, part.iter]:
                if n is not first:
                    yield from _globals(n, inside)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id not in local:
            yield node
    elif isinstance(node, ast.Name):
        if node.id not in local:
            yield node
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and "." in node.value:
            yield node
    else:
        for part in ast.iter_child_nodes(node):
            yield from _globals(part, local)


def _stored(body: Iterable[ast.AST]) -> frozenset[str]:
    """Names bound by a function's own statements, without those of functions, classes and comprehensions inside."""
    out: set[str] = set()
    for node in body:
        if isinstance(node, _DEFINITIONS):
            out.add(node.name)
        elif isinstance(node, ast.Global | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        elif isinstance(node, ast.Name):
            out |= {node.id} if isinstance(node.ctx, ast.Store) else set()
        else:
            if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                out.add(node.name)
            out |= _stored(ast.iter_child_nodes(node))
    return frozenset(out)


def _strip_docstrings(tree: ast.AST) -> None:
    """Remove docstrings from a tree."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]


def _is_text(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)


def _mentioned(module: _Module, statements: Iterable[ast.stmt]) -> dict[str, str]:
    """Data files beside a module that its statements name."""
    texts = {
        node.value
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 100
    }
    files = [p for p in _data(module.path.parent) if p.name in texts]
    return _hashed(files)


def _native(module: _Module) -> dict[str, str]:
    """C++ files beside a module of the closure."""
    return _hashed(p for p in _data(module.path.parent) if p.suffix in _NATIVE)


def _beside(module: _Module) -> dict[str, str]:
    """All data files of a package that is named as a whole, including its folders."""
    if module.path.name != "__init__.py":
        return {}
    folders = [module.path.parent, *(d for d in module.path.parent.iterdir() if d.is_dir() and not _is_package(d))]
    return _hashed(p for folder in folders for p in _data(folder))


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file() or folder.name == "__pycache__"


@cache
def _data(folder: Path) -> tuple[Path, ...]:
    return tuple(
        p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix != ".py" and p.suffix not in _NOT_SOURCE
    )


def _hashed(files: Iterable[Path]) -> dict[str, str]:
    return {f"file:{_place(p)}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _place(path: Path) -> str:
    """A file's path relative to its top package's parent."""
    parts = path.parts
    return "/".join(parts[max((i for i, part in enumerate(parts) if part in ROOTS), default=-1) :])


@cache
def _file(name: str) -> Path | None:
    """The source of a module or package of this project, found without importing it; None if there is none."""
    top, *rest = name.split(".")
    if top not in ROOTS:
        return _users(name)
    spec = find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations
    base = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
    for path in (base / "__init__.py", base.with_suffix(".py") if rest else base / "__init__.py"):
        if path.is_file():
            return path
    return None
