"""`loqua cluster` with stand-ins for ray and dvc; tests/hosts has the real ones."""

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers.cli import loqua
from tests.helpers.projects import REPOSITORY

MACHINES = REPOSITORY / "cluster" / "machines.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a filled-in cluster; `called.txt` has the commands that ran."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    config = YAML(typ="safe").load(MACHINES.read_text())
    config["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    config["auth"] = {"ssh_user": "me"}
    with (tmp_path / "mine.yaml").open("w") as file:
        YAML().dump(config, file)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("ray", "dvc", "ssh", "rsync"):
        script = f'#!/bin/sh\necho {tool} "$@" >> {tmp_path}/called.txt\n[ "$1" != submit ]\n'
        (tools / tool).write_text(script)
        (tools / tool).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments_reach_dvc_and_a_failed_run_is_fetched(project: Path) -> None:
    done = loqua("cluster", "submit", "--cluster", "mine.yaml", "--single-item", "sweep")
    assert done.exit_code == 1
    assert "`ray submit` failed" in done.stderr
    called = (project / "called.txt").read_text().splitlines()
    submitted = called.index("ray submit mine.yaml cluster/repro.py -- --single-item sweep")
    assert "ray rsync-up mine.yaml ./ ~/loqua/" in called[:submitted]
    assert "ray rsync-down mine.yaml ~/loqua/dvc.lock dvc.lock" in called[submitted:]
    assert called[-1].startswith("dvc checkout")


def test_without_arguments_it_evaluates(project: Path) -> None:
    loqua("cluster", "submit", "--cluster", "mine.yaml")
    assert " -- evaluate\n" in (project / "called.txt").read_text()


@pytest.mark.parametrize("step", ["up", "send", "submit", "fetch", "down"])
def test_a_template_is_refused_before_any_machine_is_touched(project: Path, step: str) -> None:
    shutil.copy(MACHINES, project / "machines.yaml")
    done = loqua("cluster", step, "--cluster", "machines.yaml")
    assert done.exit_code == 1
    assert "provider.head_ip: fill in <" in done.stderr
    assert not (project / "called.txt").exists()
