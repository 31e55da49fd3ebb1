"""The recipes of CONTRIBUTING.md, followed in a copy of the project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.projects import REPOSITORY, edit_params, run

COPIED = ("pipeline", "tests", "data/emoji.parquet", "params.yaml", "pyproject.toml")


def recipe(heading: str) -> list[tuple[str, str, str]]:
    """Return a recipe's blocks: the file that the text names last, the language, and the block."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    [section] = re.findall(rf"^### {heading}$\n(.*?)(?=^##|\Z)", page, re.M | re.S)
    text, found, path = section, [], ""
    for match in re.finditer(r"(.*?)^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        paths = re.findall(r"`([\w/]+\.(?:py|yaml))`", match[1])
        path = paths[-1] if paths else path
        found.append((path, match[2], match[3]))
    assert found, f"{heading}: no recipe"
    return found


def follow(project: Path, heading: str) -> None:
    """Do what a recipe says."""
    for path, language, block in recipe(heading):
        file = project / path
        if language == "diff":
            lines = block.splitlines(keepends=True)
            old, new = (
                "".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +")
            )
            text = file.read_text()
            assert text.count(old) == 1, f"{path} has {text.count(old)} places like:\n{old}"
            file.write_text(text.replace(old, new))
        else:
            assert not file.exists(), f"{path} is not new"
            file.write_text(block)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's code and settings."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *COPIED]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    return tmp_path


def python(project: Path, code: str) -> str:
    """Run Python in the copy; return what it prints."""
    return run(project, sys.executable, "-c", code).stdout


def test_a_data_set(project: Path) -> None:
    follow(project, "Add a data set")
    edit_params(project, prepare__source="flat")
    folder = project / "flat" / "pets"
    folder.mkdir(parents=True)
    for number in range(12):
        name = ("cat", "dog", "red_panda")[number % 3]
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{name}-{number}.png")
    printed = python(
        project,
        """
from pipeline.data.sources import build_source, find_sources
from pipeline.params import load_params
config = load_params().prepare
print(find_sources(config, ["pets"])["pets"]["source"])
manifest = build_source(config, "pets")
print(manifest.class_names, sorted(manifest.counts.items()))
print(all((config.root / image["path"]).is_file() for image in manifest.rows["image"]))
""",
    )
    assert printed.splitlines() == [
        "flat",
        "['cat', 'dog', 'red panda'] [('test', 3), ('train', 6), ('val', 3)]",
        "True",
    ]


def test_a_method(project: Path) -> None:
    follow(project, "Add a method")
    edit_params(project, evaluate__methods=["qrlp"])
    printed = python(
        project,
        """
from pipeline.params import load_params
prompt, train = load_params().resolver.resolve({"method": "qrlp"})
print(prompt.rank, prompt.bits, train.kg_weight)
""",
    )
    assert printed == "2 4 8.0\n"


def test_an_axis(project: Path) -> None:
    follow(project, "Add an axis to the sweep")
    space = {"train.label_smoothing": [0, 0.1], "train.lr": [0.002]}
    edit_params(project, sweep__space=space, sweep__first=[])
    (project / "tests" / "test_axis.py").write_text(
        """
from pipeline.params import load_params
from tests.helpers.fits import POINTS, finish, start
from tests.helpers.toy import train_config

def test_it_changes_the_loss(tower):
    load_params()
    plain, zero, smooth = (
        finish(start(tower, POINTS, train_config(**changed)))
        for changed in ({}, {"label_smoothing": 0.0}, {"label_smoothing": 0.1})
    )
    assert plain.equal(zero)
    assert not plain.isclose(smooth).any()
"""
    )
    run(project, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_axis.py")
