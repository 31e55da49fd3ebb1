"""The quick commands of the documentation, run as written in a small project.

The project is that of test_pipeline.py. test_docs.py looks up the other commands.
"""

from pathlib import Path

import pandas
import pytest
from PIL import Image

from tests.helpers.pages import PAGES, commands
from tests.helpers.projects import REPOSITORY, run

PROMPT = "artifacts/evaluate/prompts/champion-food-drink-1.prompt"
QUICK = {
    "make help": "make repro",
    "make compare": "champion.harmonic_mean",
    "dvc status": "sources",
    "dvc freeze sources": "",
    "dvc unfreeze sources": "",
    "dvc metrics show": "champion",
    "dvc metrics diff": "",
    "dvc plots show": "index.html",
    "dvc params diff": "",
    "dvc exp show --only-changed": "workspace",
    "dvc queue status": "Worker status",
    "dvc gc --workspace": "",
    "dvc remote add --default storage /path/to/storage": "",
    "dvc push": "pushed",
    "dvc pull": "",
    "mlflow db upgrade sqlite:///artifacts/state/mlflow.db": "",
    "optuna storage upgrade --storage sqlite:///artifacts/state/optuna.db": "",
    "du -sh artifacts/* .dvc/cache": ".dvc/cache",
    "tar -czf state.tgz artifacts/state": "",
    "loqua export coop FILE.prompt --out model.pth.tar": "ctx [",
    "loqua import coop model.pth.tar --out FILE.prompt": "new.prompt",
    'loqua export embeddings FILE.prompt --classes "cat,dog" --out classes.safetensors': (
        "2 classes"
    ),
}
"""Commands and what they print, in this order."""
OTHERWISE = {
    "make ": "make -o .venv/.ready ",
    "dvc gc --workspace": "dvc gc --workspace --force",
    "/path/to/storage": "../storage",
    "import coop model.pth.tar --out FILE.prompt": "import coop model.pth.tar --out new.prompt",
    "FILE.prompt": PROMPT,
}
"""Replacements: paths that exist here, and no questions."""


@pytest.fixture(scope="module")
def done(project: Path, finished: str) -> Path:
    """The project, finished with its own parameters."""
    assert finished
    run(project, "dvc", "repro")
    Image.new("RGB", (40, 40), "orange").save(project / "picture.png")
    return project


@pytest.mark.parametrize("command", QUICK)
def test_it_runs_and_prints_what_the_page_says(done: Path, command: str) -> None:
    assert command in {one.text for page in PAGES for one in commands(page)}, "in no page"
    changed = command
    for old, new in OTHERWISE.items():
        changed = changed.replace(old, new)
    found = run(done, "bash", "-c", changed)
    assert QUICK[command] in found.stdout + found.stderr


def test_the_copies_of_the_databases_are_whole(done: Path) -> None:
    [backup] = python_code("docs/operations.md", ".backup(")
    run(done, "bash", "-c", backup)
    for name in ("optuna", "mlflow"):
        code = f"import sqlite3; print(*sqlite3.connect('{name}-copy.db').iterdump(), sep='\\n')"
        copied = run(done, "python", "-c", code).stdout
        original = run(
            done, "python", "-c", code.replace(f"{name}-copy", f"artifacts/state/{name}")
        )
        assert copied == original.stdout


def test_the_readme_predicts(done: Path) -> None:
    page = commands(REPOSITORY / "README.md")
    [export] = [c.text for c in page if c.text.startswith("export MLFLOW")]
    [predict] = python_code("README.md", "from pipeline.registry.client import predict")
    printed = run(done, "bash", "-c", f"{export}\n{predict}").stdout
    assert "class_name" in printed


def test_the_tutorial_predicts(done: Path) -> None:
    page = commands(REPOSITORY / "docs/tutorial.md")
    [pictures] = python_code("docs/tutorial.md", "artifacts/some")
    first, second = (c.text for c in page if c.text.startswith("loqua predict"))
    run(done, "bash", "-c", pictures)
    assert "5 pictures" in run(done, "bash", "-c", first).stdout
    run(done, "bash", "-c", second)
    answers = pandas.read_csv(done / "artifacts/answers.csv")
    assert set(answers["class_name"]) <= {"fruit", "bread", "a drink"}


def python_code(page: str, word: str) -> list[str]:
    """The commands of a page that are Python code with a word in it."""
    path = REPOSITORY / page
    return [c.text for c in commands(path) if c.text.startswith("python -c") and word in c.text]


def test_clean_removes_what_was_made_and_nothing_else(done: Path) -> None:
    run(done, "bash", "-c", "make -o .venv/.ready clean")
    assert [path.name for path in (done / "artifacts").iterdir()] == ["pretrain"]
    assert run(done, "git", "status", "--porcelain", "artifacts").stdout == ""
