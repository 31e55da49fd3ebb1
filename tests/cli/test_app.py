"""`loqua` itself: its help, its exit codes, and what it loads."""

import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli.command import Command
from tests.helpers.cli import all_commands, loqua
from tests.helpers.projects import REPOSITORY

FRAMEWORKS = ("torch", "open_clip", "ray", "optuna", "mlflow", "dvc", "pandas", "pydantic")


def test_pyproject_installs_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    [(name, value)] = project["scripts"].items()
    assert name == "loqua"
    assert callable(EntryPoint(name, value, "console_scripts").load())


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_help_needs_no_project(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = loqua(*words, "--help")
    assert done.exit_code == 0
    assert f"loqua {' '.join(words)}" in done.stdout


def test_help_groups_all_commands() -> None:
    shown = loqua("--help").stdout
    panels = re.findall(r"╭─ ([A-Z][^─]+?) ─", shown)
    assert panels[0] == "Options"
    assert len(panels) > 2
    assert "Commands" not in panels, "a command has no panel"
    for name in {words[0] for words in all_commands()}:
        assert re.search(rf"^│ {name} ", shown, re.M)


def test_no_framework_is_loaded_before_a_command_runs() -> None:
    code = f"import sys, pipeline.cli.app; print([m for m in {FRAMEWORKS} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_elsewhere_the_error_names_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    done = loqua("ui")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no params.yaml in this folder" in done.stderr
    (tmp_path / "params.yaml").touch()
    assert f"run `loqua` in the folder {tmp_path}\n" in loqua("ui").stderr


@pytest.mark.parametrize("words", ["nope", "export", "export coop", "predict . --nope", "import x"])
def test_wrong_usage_ends_with_2(words: str) -> None:
    done = loqua(*words.split())
    assert done.exit_code == 2


def test_a_command_ends_with_the_status_of_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    toy = typer.Typer()
    toy.command(cls=Command)(lambda number=0: signal.raise_signal(number))
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        try:
            done = CliRunner().invoke(toy, ["--number", str(int(number))])
        finally:
            signal.signal(number, before)
        assert done.exit_code == 128 + number
        assert done.stderr.startswith("interrupted")
        assert done.stderr.count("\n") == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    toy = typer.Typer()
    toy.command(cls=Command)(lambda: {}["a key"])
    assert isinstance(CliRunner().invoke(toy, []).exception, KeyError)


@pytest.mark.parametrize(("typed", "offered"), [("ex", {"export"}), ("export e", {"embeddings"})])
def test_a_shell_completes_commands(typed: str, offered: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={
            "_LOQUA_COMPLETE": "complete_bash",
            "COMP_WORDS": f"loqua {typed}",
            "COMP_CWORD": str(len(typed.split())),
        },
    )  # fmt: skip
    assert set(done.stdout.split()) == offered


def test_stages_are_what_dvc_runs_and_nothing_else() -> None:
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    lines = [(stage.get("do") or stage)["cmd"] for stage in stages.values()]
    called = {re.fullmatch(r"python -m stages\.(\w+).*", line)[1] for line in lines}
    assert {path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py")} == called
