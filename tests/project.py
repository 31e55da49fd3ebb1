"""A copy of the whole project, small enough to be run in a test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parent.parent
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def clean_environment() -> dict[str, str]:
    """Return the environment without what would lead to a user's own runs."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}


def run(
    project: Path, *command: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project with the tests' own Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**clean_environment(), "PATH": path, "PYTHONPATH": str(project), **environment},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def edit_params(project: Path, **changes: object) -> None:
    """Set parameters by dotted names (`__` stands for the dot)."""
    yaml = YAML()
    path = project / "params.yaml"
    params = yaml.load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = params
        for part in sections:
            section = section[part]
        section[key] = value
    with path.open("w") as file:
        yaml.dump(params, file)


def copy_project(folder: Path, **changes: object) -> Path:
    """Copy what git knows to a folder, with little to do, and commit it there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    small: dict[str, Any] = {
        "tasks": ["activities", "food-drink"],
        "prepare__emoji__poses": {"train": 2, "val": 1, "test": 1},
        "features__views": 1,
        "features__workers": 0,
        "train__fast__stride": 1000,
        "train__fast__min_steps": 6,
        "train__rounds": 2,
        "sweep__tasks": ["activities"],
        "sweep__shots": 4,
        "sweep__seeds": [1],
        "evaluate__seeds": [1, 2],
    }
    edit_params(folder, **{**small, **changes})
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", *IDENTITY, "commit", "-qm", "clone")
    return folder
