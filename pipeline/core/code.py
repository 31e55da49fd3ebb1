"""The project's code as data: what a module reaches by import, and a hash of what code means."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The folder that `pipeline` is in."""


def module_file(module: str) -> Path | None:
    """Return the file of a module of this project, or None if there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def imported(module: str) -> frozenset[str]:
    """Return the modules of this project that a module imports itself, at any depth of its code.

    Importing a module runs the `__init__.py` of every package around it, so these count, too.
    """
    file = module_file(module)
    assert file is not None, module
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    parts = [name.split(".") for name in (module, *names)]
    around = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    own = module.partition(".")[0]
    first = {own, "pipeline"}
    return frozenset(
        name
        for name in around - {module}
        if name.partition(".")[0] in first and module_file(name) is not None
    )


def import_closure(modules: Iterable[str]) -> list[str]:
    """Return these modules and all modules of this project that they reach by import, sorted."""
    found: set[str] = set()
    todo = list(modules)
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += imported(module)
    return sorted(found)


def meaning(source: str) -> str:
    """Return source code in a normal form: without comments, docstrings and formatting.

    Equal forms mean equal code. The form is that of the syntax tree without empty fields, so that
    a version of Python that adds a field to its trees changes no form.
    """
    return repr(_form(ast.parse(source)))


def _form(node: Any) -> Any:
    """Return a part of a syntax tree as lists, names and constants."""
    if isinstance(node, list):
        return [_form(part) for part in node if not _does_nothing(part)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, _form(part)) for name, part in ast.iter_fields(node)]
    return [type(node).__name__, *(field for field in fields if field[1] not in (None, []))]


def _does_nothing(node: Any) -> bool:
    """Return whether a statement is `pass`, or a string alone, which is documentation."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def code_identity(modules: Iterable[str], exempt: Collection[str] = ()) -> str:
    """Return the SHA-256 of what these modules, and all that they import of the project, mean.

    Comments, docstrings and formatting change nothing; a changed constant does. Modules that are
    `exempt` do not count; what they import does.
    """
    digest = hashlib.sha256()
    for module in import_closure(modules):
        if module in exempt:
            continue
        file = module_file(module)
        assert file is not None, module
        digest.update(f"{module}\n{meaning(file.read_text())}\n".encode())
    return digest.hexdigest()
