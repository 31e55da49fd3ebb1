"""Start a cluster of machines, send the project to it, fetch results, stop it.

Every step is a command of Ray that you could type: docs/cluster.md shows them. Secrets travel in
files that only their owner can read, never in arguments or output.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import report_all
from pipeline.core.files import clear_folder
from pipeline.core.paths import CLUSTER, STATE
from pipeline.sweep.state_sync import record, take_over

PROJECT = "~/loqua"
"""The project's folder on every node, as cluster/*.yaml has it."""
TOKEN = Path("~/.ray/auth_token")
SCRIPT = Path("cluster/repro.py")
KNOWN = CLUSTER / "known.json"
PLACEHOLDER = re.compile(r"<[^<>]*>")


def load_cluster(path: Path) -> dict[str, Any]:
    """Read and check a cluster's file, before any machine is touched.

    Raises:
        ValueError: listing every problem: the file is missing or damaged, has placeholders or
            names a missing key; or this machine has no ssh or rsync.
    """
    try:
        config = YAML(typ="safe").load(path.read_text())
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path}: not readable ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: got no settings; expected those of cluster/machines.yaml")
    problems = list(placeholders(config))
    key = (config.get("auth") or {}).get("ssh_private_key")
    if key and not PLACEHOLDER.search(key) and not Path(key).expanduser().is_file():
        problems.append(f"auth.ssh_private_key: no such file: {key}")
    problems += [f"{tool} is not installed here" for tool in ("ssh", "rsync") if not find(tool)]
    report_all(f"{path}:", problems)
    return config


def placeholders(value: Any, name: str = "") -> Iterator[str]:
    """Yield a sentence for every placeholder of a file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from placeholders(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from placeholders(inner, name)
    else:
        yield from (f"{name}: fill in {text}" for text in PLACEHOLDER.findall(str(value)))


def up(path: Path) -> None:
    """Start the cluster, or bring its nodes up to date with the project's environment."""
    config = load_cluster(path)
    make_token()
    # Ray 2.60: the v2 autoscaler, now the default, starts all but one machine of a list. Drop this
    # when `ray up` with `provider: local` starts all of them.
    ray("up", "--yes", path, RAY_UP_enable_autoscaler_v2="0" if is_listed(config) else "1")


def send(path: Path) -> None:
    """Send the project to the head: code, settings, data, artefacts and DVC's cache.

    Raises:
        ValueError: if a run is in progress there, or both sides have new trials.
    """
    load_cluster(path)
    fetch_state(path)
    # Ray 2.60: rsync-up deletes nothing, so branches that were deleted here would stay there.
    ray("exec", path, f"rm -rf {PROJECT}/.git/refs")
    ray("rsync-up", path, "./", f"{PROJECT}/")
    record(STATE, KNOWN)


def submit(path: Path, arguments: Sequence[str]) -> None:
    """Send the project, run `dvc repro` with these arguments there, and fetch the results.

    Results come back even if a stage fails. Submit again to resume an interrupted run.

    Raises:
        ValueError: if the run fails, or for the reasons of `send` and `fetch`.
    """
    send(path)
    try:
        ray("submit", path, SCRIPT, "--", *map(shlex.quote, arguments))
    finally:
        fetch(path)


def fetch(path: Path) -> None:
    """Fetch results and state, so that DVC has nothing to do here for stages that ran there.

    Raises:
        ValueError: if a run is in progress there, or both sides have new trials.
    """
    load_cluster(path)
    fetch_state(path)
    ray("rsync-down", path, f"{PROJECT}/.dvc/cache/", ".dvc/cache/")
    ray("rsync-down", path, f"{PROJECT}/dvc.lock", "dvc.lock")
    run("dvc", "checkout", "--quiet", "--force", "--allow-missing")


def fetch_state(path: Path) -> None:
    """Fetch the studies and runs that are newer on the head.

    Raises:
        ValueError: if a run is in progress there, or both sides have changed.
    """
    there = f"{PROJECT}/artifacts/state"
    try:
        ray("exec", path, f"mkdir -p {there} && flock --nonblock {there}/cluster.lock true")
    except ValueError:
        raise ValueError(
            f"{path}: the head does not answer, or a run is in progress there; wait for its end"
        ) from None
    copy = clear_folder(CLUSTER / "state")
    ray("rsync-down", path, there, f"{CLUSTER}/")
    take_over(copy, STATE, KNOWN)


def down(path: Path) -> None:
    """Stop Ray on all machines; in a cloud, also end the machines."""
    config = load_cluster(path)
    if is_listed(config):
        # Ray 2.60: with `provider: local`, `ray down` stops the head alone.
        ray("exec", path, stop_listed(config), check=False)
    ray("down", "--yes", path)


def stop_listed(config: dict[str, Any]) -> str:
    """Return the head's command that stops Ray on all machines and deletes the head's ssh key."""
    options = "-i ~/ray_bootstrap_key.pem -o BatchMode=yes -o LogLevel=ERROR"
    options += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    user = config["auth"]["ssh_user"]
    workers = [
        f"ssh {options} {shlex.quote(f'{user}@{address}')} {PROJECT}/.venv/bin/ray stop"
        for address in config["provider"]["worker_ips"]
    ]
    return "; ".join(["ray stop", *workers, "rm -f ~/ray_bootstrap_key.pem"])


def is_listed(config: dict[str, Any]) -> bool:
    """Return whether the file lists existing machines."""
    return bool((config.get("provider") or {}).get("type") == "local")


def make_token() -> None:
    """Make the secret that all nodes share, unless there is one; only its owner can read it."""
    path = TOKEN.expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ray("get-auth-token", "--generate", quiet=True)  # it prints the secret
    path.chmod(0o600)


def run(*command: object, check: bool = True, quiet: bool = False, **environment: str) -> None:
    """Run a command of this Python's environment; its output is shown unless `quiet`.

    Raises:
        ValueError: if it fails and `check` is set.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        [find(words[0]) or words[0], *words[1:]],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL if quiet else None,
        check=False,
    )
    if check and done.returncode:
        raise ValueError(f"`{shlex.join(words[:2])}` failed; see above")


def find(tool: str) -> str | None:
    """Return the path of a program, first of this Python's environment, which may be inactive."""
    return shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)


ray = partial(run, "ray", RAY_USAGE_STATS_ENABLED="0")
