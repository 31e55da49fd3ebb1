"""A real sweep on three hosts, as a user runs it: ray up, ray submit, ray job submit, ray down."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from ruamel.yaml import YAML

from tests.helpers.projects import clean_environment, clone, commit_all, edit_params, free_port
from tests.hosts.hosts import Host, Hosts

pytestmark = pytest.mark.cluster

VENV = Path(sys.prefix)
N_TRIALS = 4
N_STEPS = 1500  # so long that the first worker does not run all trials while the others start


class Laptop:
    """The user's machine: the project and a home of its own, outside of the hosts."""

    def __init__(self, project: Path, home: Path) -> None:
        self.project = project
        inherited = clean_environment()
        for name in ("PYTHONPATH", "RAY_ADDRESS", "MAKEFLAGS", "MAKELEVEL"):
            inherited.pop(name, None)
        path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**inherited, "HOME": str(home), "PATH": path}

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command in the project; return all that it printed."""
        done = subprocess.run(
            command, cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, check=False, timeout=1800,
            env={**self.environment, **environment},
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout[-8000:]
        return done.stdout


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    install_tools()
    made = Hosts(tmp_path_factory.mktemp("hosts"), VENV, count=3)
    with made:
        yield made
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert made.bridge not in spaces
    assert made.bridge not in {name for _, name in socket.if_nameindex()}
    assert all(host.process.poll() is not None for host in made.hosts)


def install_tools() -> None:
    """Skip where hosts cannot be made; install what Debian has of their tools."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not (VENV / ".ready").is_file():
        pytest.skip(f"{VENV} was not made by `make`: the hosts' setup commands would install again")
    needed = {"sshd": "openssh-server", "rsync": "rsync", "ip": "iproute2"}
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    missing = [package for tool, package in needed.items() if not shutil.which(tool, path=path)]
    if missing:
        if not shutil.which("apt-get"):
            pytest.skip(f"{', '.join(missing)}: not installed, and there is no apt-get")
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        # policy-rc.d keeps a new sshd from being started for the machine itself.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def laptop(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """A clone of the project with little to do, and its cluster's file filled in."""
    folder = tmp_path_factory.mktemp("laptop")
    project = folder / "loqua"
    clone(
        project,
        train__fast__min_steps=N_STEPS,
        train__rounds=6,
        sweep__n_trials=N_TRIALS,
        evaluate__seeds=[1],
    )
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(project / name, (0, 0))  # so that make finds the environment newer, everywhere
    (project / ".venv").symlink_to(VENV)
    fill_in(project / "cluster" / "machines.yaml", hosts)
    (folder / "home").mkdir()
    laptop = Laptop(project, folder / "home")
    commit_all(project)
    laptop.run("dvc", "repro", "features")
    return laptop


def fill_in(path: Path, hosts: Hosts) -> None:
    """Fill in a cluster's file as a user does; one CPU a host, since they share two."""
    yaml = YAML()
    config = yaml.load(path.read_text())
    head, *workers = (host.address for host in hosts.hosts)
    config["cluster_name"] = hosts.bridge
    config["provider"].update(head_ip=head, worker_ips=workers)
    config["auth"].update(ssh_user="root", ssh_private_key=str(hosts.key))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        commands[-1] += " --num-cpus=1 --object-store-memory=200000000"
    yaml.width = 1000
    with path.open("w") as file:
        yaml.dump(config, file)


def ask(hosts: Hosts, what: str) -> list[dict[str, str]]:
    """Return a list of Ray's state, `nodes` or `actors`, from the head."""
    answer = hosts.ssh(
        hosts.hosts[0],
        f"RAY_AUTH_MODE=token ~/loqua/.venv/bin/ray list {what} --detail --format json",
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("[")]
    return json.loads(lines[-1]) if lines else []


@pytest.fixture(scope="module")
def running(hosts: Hosts, laptop: Laptop) -> Iterator[str]:
    """What `make cluster-up` printed; all hosts have joined."""
    try:
        printed = laptop.run("make", "cluster-up")
        deadline = time.monotonic() + 900
        while len(alive := [n for n in ask(hosts, "nodes") if n["state"] == "ALIVE"]) < 3:
            logs = hosts.ssh(hosts.hosts[0], "tail -n 60 /tmp/ray/session_latest/logs/monitor*")
            assert time.monotonic() < deadline, (alive, logs.stdout)
            time.sleep(2)
        yield printed
    finally:
        for left in Path("/tmp/ray").glob(f"cluster-{hosts.bridge}.*"):
            left.unlink()


@pytest.fixture(scope="module")
def submitted(running: str, laptop: Laptop) -> str:
    """What `make cluster-submit` printed."""
    assert running
    return laptop.run("make", "cluster-submit", "STAGES=sweep")


def trials(laptop: Laptop) -> list[dict]:
    return json.loads((laptop.project / "artifacts/sweep/trials.json").read_text())["trials"]


def test_trials_ran_on_every_host(submitted: str, hosts: Hosts) -> None:
    node_of = {node["node_id"]: node["node_ip"] for node in ask(hosts, "nodes")}
    actors = [a for a in ask(hosts, "actors") if "Trainable" in a["class_name"]]  # Tune's wrapper
    begun = {node_of[a["node_id"]] for a in actors if a["node_id"]}
    assert begun == {host.address for host in hosts.hosts}
    assert "3 node(s), 3 CPUs" in submitted


def test_results_came_back_and_dvc_has_nothing_to_do_here(submitted: str, laptop: Laptop) -> None:
    assert len(trials(laptop)) == N_TRIALS
    assert "Running stage 'features" not in submitted, "the head has our features"
    repeated = laptop.run("dvc", "repro", "sweep")
    assert not [s for s in re.findall(r"Running stage '([^']+)'", repeated) if s != "sources"]
    status = laptop.run("git", "status", "--porcelain").split()
    assert set(status) <= {"M", "dvc.lock"}, status


def test_runs_came_back(submitted: str, laptop: Laptop) -> None:
    assert submitted
    client = MlflowClient(f"sqlite:///{laptop.project / 'artifacts/state/mlflow.db'}")
    experiment = client.get_experiment_by_name("loqua")
    assert experiment.artifact_location.startswith(laptop.project.as_uri())
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    assert len(runs) == 1 + N_TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_secrets_are_private_and_never_printed(
    running: str, submitted: str, hosts: Hosts, laptop: Laptop
) -> None:
    token = Path(laptop.environment["HOME"]) / ".ray" / "auth_token"
    secrets = [token.read_text().strip(), *hosts.key.read_text().splitlines()[1:-1]]
    for host in hosts.hosts:
        theirs = host.home / ".ray" / "auth_token"
        assert theirs.read_text() == token.read_text()
        assert theirs.stat().st_mode & 0o077 == 0
        logs = [p for p in (host.files / "tmp-ray").rglob("logs/**/*") if p.is_file()]
        assert logs
        for text in [running, submitted, *(p.read_text(errors="replace") for p in logs)]:
            assert not any(secret in text for secret in secrets)
    assert token.stat().st_mode & 0o077 == 0


def test_strangers_are_kept_out(submitted: str, hosts: Hosts) -> None:
    assert submitted
    head, worker, _ = hosts.hosts
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((head.address, 8265), timeout=5)  # the dashboard
    script = f"import ray; ray.init(address='{head.address}:6379'); print('let in')"
    for mode, token in (("disabled", ""), ("token", "0" * 64)):
        environment = f"RAY_AUTH_MODE={mode} RAY_AUTH_TOKEN={token}"
        command = f'cd /; {environment} timeout 100 ~/loqua/.venv/bin/python -c "{script}"'
        joined = hosts.ssh(worker, command)
        assert "let in" not in joined.stdout
        assert joined.returncode != 0


def test_a_job_runs_without_a_connection_and_is_fetched(
    submitted: str, hosts: Hosts, laptop: Laptop
) -> None:
    assert submitted
    head = hosts.hosts[0]
    edit_params(laptop.project, sweep__n_trials=N_TRIALS + 1)
    laptop.run("make", "cluster-send")
    with tunnel(hosts, head) as address:
        job = ("ray", "job", "submit", "--address", address, "--")
        command = ("python", "loqua/cluster/repro.py", "sweep")
        refused = laptop.run(*job, *command, check=False, RAY_AUTH_MODE="disabled")
        assert "Succeeded" not in refused
        assert "uthenticat" in refused or "nauthorized" in refused, refused
        printed = laptop.run(*job, *command, RAY_AUTH_MODE="token")
    assert "succeeded" in printed
    assert len(trials(laptop)) == N_TRIALS
    laptop.run("make", "cluster-fetch")
    assert len(trials(laptop)) == N_TRIALS + 1


class tunnel:  # noqa: N801 (used as a function)
    """`ssh -L` to the head's dashboard, which listens on its loopback alone."""

    def __init__(self, hosts: Hosts, head: Host) -> None:
        self.port = free_port()
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "LogLevel=ERROR", "-N", "-L", f"127.0.0.1:{self.port}:127.0.0.1:8265"]
        self.command = ["ssh", "-i", str(hosts.key), *options, f"root@{head.address}"]

    def __enter__(self) -> str:
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return f"http://127.0.0.1:{self.port}"
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def test_down_stops_ray_everywhere_and_deletes_the_key(
    submitted: str, hosts: Hosts, laptop: Laptop
) -> None:
    assert submitted
    head = hosts.hosts[0]
    assert (head.home / "ray_bootstrap_key.pem").exists()
    laptop.run("make", "cluster-down")
    assert not (head.home / "ray_bootstrap_key.pem").exists()
    for host in hosts.hosts:
        left = hosts.ssh(host, "pgrep -a 'raylet|gcs_server' || true").stdout
        assert not left, f"{host.name}: {left}"
