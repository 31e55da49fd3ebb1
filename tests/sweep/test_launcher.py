"""The cluster templates, and the checks before any machine is touched."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from pipeline.sweep import launcher

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "cluster").glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_fits_rays_own_schema(path: Path) -> None:
    config = prepare_config(load(path))
    validate_config(config)
    assert config["max_workers"] > 0
    with pytest.raises(ValidationError, match="max_workerz"):
        validate_config({**config, "max_workerz": 1})


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("machines", "provider.head_ip provider.worker_ips auth.ssh_user auth.ssh_private_key"),
        ("cloud", "provider.region head.node_config.ImageId gpu.node_config.SecurityGroupIds"),
    ],
)
def test_template_lists_its_placeholders(name: str, places: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.yaml") as caught:
        launcher.load_cluster(ROOT / "cluster" / f"{name}.yaml")
    assert all(f"{place}: fill in <" in str(caught.value) for place in places.split())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_sends_what_the_environment_needs(path: Path) -> None:
    config = load(path)
    ours = {there: here for there, here in config["file_mounts"].items() if "loqua" in there}
    assert all((ROOT / here).exists() for here in ours.values())
    assert {"Makefile", "constraints.txt", "pipeline", "pyproject.toml", "stages"} <= set(
        ours.values()
    )
    assert "make -C ~/loqua environment" in config["setup_commands"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for who in ("head", "worker"):
        assert "RAY_AUTH_MODE=token ray start" in config[f"{who}_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert {".venv", ".dvc/config.local", "sweep.lock"} <= set(config["rsync_exclude"])


def test_gpu_nodes_come_and_go_and_are_checked() -> None:
    config = load(ROOT / "cluster" / "cloud.yaml")
    gpu = config["available_node_types"]["gpu"]
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= config["max_workers"]
    assert gpu["resources"]["GPU"] == 1
    assert "torch.cuda.is_available()" in gpu["worker_setup_commands"][-1]
    assert gpu["worker_setup_commands"][:-1] == config["setup_commands"]


def filled(tmp_path: Path, **auth: str) -> Path:
    config = load(ROOT / "cluster" / "machines.yaml")
    config["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
    config["auth"] = {"ssh_user": "me", **auth}
    path = tmp_path / "mine.yaml"
    with path.open("w") as file:
        YAML().dump(config, file)
    return path


def test_all_problems_of_a_file_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("ssh", "rsync"):
        (tmp_path / tool).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "key").write_text("secret")
    assert launcher.load_cluster(filled(tmp_path, ssh_private_key=str(tmp_path / "key")))
    (tmp_path / "rsync").unlink()
    with pytest.raises(ValueError, match="mine.yaml") as caught:
        launcher.load_cluster(filled(tmp_path, ssh_private_key="/no/such/key"))
    assert "auth.ssh_private_key: no such file: /no/such/key" in str(caught.value)
    assert "rsync is not installed here" in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "a: b: c", "- a list"])
def test_a_file_without_settings_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml: "):
        launcher.load_cluster(tmp_path / "bad.yaml")


def test_head_stops_every_worker(tmp_path: Path) -> None:
    command = launcher.stop_listed(load(filled(tmp_path)))
    assert command.startswith("ray stop; ")
    assert all(f"me@10.0.0.{n} ~/loqua/.venv/bin/ray stop" in command for n in (2, 3))
    assert command.endswith("rm -f ~/ray_bootstrap_key.pem")


def test_token_is_made_once_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    launcher.make_token()
    token = tmp_path / ".ray" / "auth_token"
    secret = token.read_text()
    assert len(secret) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    token.chmod(0o644)  # as a local `ray.init()` makes it
    launcher.make_token()
    assert token.read_text() == secret
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err


def test_script_passes_arguments_on_and_refuses_a_second_run(tmp_path: Path) -> None:
    project = tmp_path / "loqua"
    tools = project / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "dvc").write_text(
        '#!/bin/sh\necho "$PWD $RAY_AUTH_MODE ${OMP_NUM_THREADS:-free} $@"\n'
        f"{sys.executable} {ROOT}/cluster/repro.py again\nexit 3\n"
    )
    (tools / "dvc").chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "cluster" / "repro.py", "--single-item", "sweep"],
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == f"{project} token free repro --single-item sweep\n"
    assert done.stderr == "error: another run is in progress on this cluster; wait for its end\n"
    assert shutil.which("dvc", path=str(tools))
