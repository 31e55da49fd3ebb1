"""What the project is installed with, and what its tests run without."""

import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.bare import HIDDEN

ROOT = Path(__file__).parents[1]


def test_every_floor_is_the_version_that_is_tested() -> None:
    """An older one may have holes that are known, or lack what is used."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [project["dependencies"], *project["optional-dependencies"].values()]
    floors = {
        requirement.name: str(requirement.specifier)
        for requirement in map(Requirement, sum(named, []))
        if requirement.name != project["name"]
    }
    assert floors == {name: f">={pins[canonicalize_name(name)]}" for name in floors}


def test_tests_run_on_a_bare_machine(tmp_path: Path) -> None:
    assert not [program for program in HIDDEN if shutil.which(program)]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-C", tmp_path, "commit", "--allow-empty", "-m", "by nobody"]
    assert subprocess.run(commit, check=False, capture_output=True).returncode
