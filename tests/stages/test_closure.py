"""dvc.yaml declares all code that a stage reaches, and all parameters that it reads.

Code counts by import, at any depth, wherever the import is written. A stage may do without a module
that cannot change what it writes, or whose change is worth no new run; each such case is listed
here with its reason.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.code import ROOT, import_closure, meaning, module_file
from pipeline.core.settings import flatten

SHIPPED = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
SOURCES = ("emoji", "coop", "folder", "table")
STAGES = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
RERUN = {
    name: stage
    for name, stage in STAGES.items()
    if not stage.get("always_changed") and not stage.get("frozen")
}
"""Stages that DVC runs when a dependency changes, and only then."""

READER = "reads params.yaml; DVC compares the values"
WORDS = "errors, locks and places of files: changes words, not content"
UNDECLARED = {
    "*": {
        "pipeline.*config": "the settings of a section; DVC compares the values",
    },
    "prepare": {
        "pipeline.core.[!h]*": WORDS,
        "pipeline.params": READER,
        "pipeline.training.settings": READER,
    },
    "features": {
        "pipeline.core.[!h]*": WORDS,
        "pipeline.params": READER,
        "pipeline.training.settings": READER,
    },
    "evaluate": {
        "pipeline.tracking.*": "sends what was measured to MLflow; results would be the same",
    },
}
"""Modules, by stage, that are reached and need not be declared, and why."""

GUARDED = "compared with those of the features, which are a dependency"
UNREAD = {
    "*": {
        "prepare.*.root": "where pictures are; the manifests are a dependency",
        "sweep.[cg]pus_per_trial": "resources",
        "tracking.patience_s": "how long the end waits",
    },
    "prepare": {"tasks": "one of them is the stage's item"},
    "features": {
        "backbone.text_budget_gb": "memory of the text tower, which is not used",
        "features.workers": "share the work",
        "prepare.*": "of the manifest, which is a dependency",
        "protocols.*.train": "only shots are read",
        "protocols.*.test": "only shots are read",
        "protocols.*.source": "only shots are read",
        "tasks": "one of them is the stage's item",
    },
    "sweep": {
        "features.*": GUARDED,
        "prepare.*": "of the manifests, which are a dependency",
    },
    "evaluate": {
        "evaluate.compact_within": "chooses winners, which are a dependency",
        "features.*": GUARDED,
        "prepare.*": "of the manifests, which are a dependency",
    },
    "report": {"features.*": GUARDED},
}
"""Parameters, by stage, that are reached and need not be declared, and why."""


def declared_code(stage: str) -> list[Path]:
    return [Path(name) for name in STAGES[stage]["deps"] if name.startswith(("pipeline", "stages"))]


def reached(stage: str) -> dict[str, Path]:
    """Return the modules that a stage reaches and that do something, and their files."""
    files = {module: module_file(module) for module in import_closure([f"stages.{stage}"])}
    return {
        module: file.relative_to(ROOT)
        for module, file in files.items()
        if file is not None and meaning(file.read_text()) != meaning("")
    }


@pytest.mark.parametrize("stage", RERUN)
def test_a_stage_declares_all_code_that_it_reaches(stage: str) -> None:
    declared = declared_code(stage)
    exempt = [*UNDECLARED["*"], *UNDECLARED.get(stage, ())]
    undeclared = [
        module
        for module, file in reached(stage).items()
        if not any(file.is_relative_to(path) for path in declared)
        and not any(fnmatch(module, pattern) for pattern in exempt)
    ]
    assert not undeclared, f"dvc.yaml, {stage}: not among deps: {undeclared}"


@pytest.mark.parametrize("stage", RERUN)
def test_declared_code_exists_and_is_reached(stage: str) -> None:
    files = reached(stage).values()
    idle = [str(p) for p in declared_code(stage) if not any(f.is_relative_to(p) for f in files)]
    assert not idle, f"dvc.yaml, {stage}: among deps, but not imported: {idle}"


@pytest.mark.parametrize("stage", [stage for stage in UNDECLARED if stage != "*"])
def test_every_exemption_is_of_use(stage: str) -> None:
    declared = declared_code(stage)
    missing = {
        module
        for module, file in reached(stage).items()
        if not any(file.is_relative_to(path) for path in declared)
    }
    for pattern in UNDECLARED[stage]:
        assert any(fnmatch(module, pattern) for module in missing), pattern


def chain(node: ast.expr, known: dict[str, str]) -> str | None:
    """Return the dotted name of a parameter that an expression reads, or None."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (below := chain(node.value, known)) is not None:
        return f"{below}.{node.attr}".lstrip(".")
    return None


def read_chains(tree: ast.AST, known: dict[str, str]) -> Iterator[str]:
    """Yield what code reads of objects whose names are known, aliases included."""
    known = dict(known)
    for node in ast.walk(tree):  # assignments first: a name means one thing in a stage
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for name, part in pairs:
                if isinstance(name, ast.Name) and (found := chain(part, known)):
                    known[name.id] = found
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and (c := chain(node, known)):
            yield c


def properties() -> dict[str, list[str]]:
    """Return what the properties and methods of `Params` read."""
    tree = ast.parse((ROOT / "pipeline/params.py").read_text())
    [params] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Params"]
    own = [node for node in params.body if isinstance(node, ast.FunctionDef)]
    return {node.name: list(read_chains(node, {"self": ""})) for node in own}


def leaves(name: str) -> set[str]:
    """Return the parameters at or below a dotted name, or that a longer name belongs to."""
    every = flatten(SHIPPED)
    below = {leaf for leaf in every if f"{leaf}.".startswith(f"{name}.")}
    return below or {leaf for leaf in every if f"{name}.".startswith(f"{leaf}.")}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "pretrain"])
def test_a_stage_declares_all_parameters_that_it_reads(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    computed, read = properties(), list(read_chains(tree, {"params": ""}))
    names = [part for name in read for part in computed.get(name.split(".")[0], [name])]
    exempt = [*UNREAD["*"], *UNREAD.get(stage, ())]
    declared = [
        name.replace("${prepare.source}", source).replace("${sweep.preset}", "own")
        for name in STAGES[stage]["params"]
        for source in SOURCES
    ]
    missing = [
        leaf
        for name in dict.fromkeys(names)
        for leaf in leaves(name.replace("register_", "register"))
        if not any(f"{leaf}.".startswith(f"{own}.") for own in declared)
        and not any(fnmatch(leaf, pattern) for pattern in exempt)
    ]
    assert not missing, f"dvc.yaml, {stage}: not among params: {sorted(set(missing))}"
