"""A cluster of machines from here: started, given the project, asked for results, stopped.

Every step is a command of Ray (`ray up`, `submit`, `rsync-up`, `rsync-down`, `exec`, `down`) that
a person could type; docs/cluster.md shows them. Secrets travel in files that only their owner
reads, never in arguments or output.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import report_all
from pipeline.core.files import clear_folder
from pipeline.core.paths import CLUSTER, STATE
from pipeline.sweep.state_sync import remember, take_over

PROJECT = "~/loqua"
"""Where the templates put the project on every node."""
TOKEN = Path("~/.ray/auth_token")
SCRIPT = Path("cluster/repro.py")
KNOWN = CLUSTER / "known.json"
PLACEHOLDER = re.compile(r"<[^<>]*>")


def load_cluster(path: Path) -> dict[str, Any]:
    """Read a cluster's file and refuse one that cannot work, before any machine is touched.

    Raises:
        ValueError: if it is missing or damaged, has places to fill in, names a key that is not
            there, or this machine lacks ssh or rsync; all problems at once.
    """
    try:
        config = YAML(typ="safe").load(path.read_text())
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path}: not readable ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: found no settings; cluster/machines.yaml shows them")
    problems = [f"{name}: fill in {value}" for name, value in placeholders(config)]
    key = config.get("auth", {}).get("ssh_private_key")
    if key and not PLACEHOLDER.search(key) and not Path(key).expanduser().is_file():
        problems.append(f"auth.ssh_private_key: there is no file {key}")
    problems += [f"{tool} is not installed here" for tool in ("ssh", "rsync") if not which(tool)]
    report_all(f"{path}:", problems)
    return config


def placeholders(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return the places of a file that are still to be filled in: dotted name and text."""
    if isinstance(value, dict):
        found = [placeholders(inner, f"{name}.{key}") for key, inner in value.items()]
        return sum(found, [])
    if isinstance(value, list):
        return sum((placeholders(inner, name) for inner in value), [])
    return [(name.lstrip("."), text) for text in PLACEHOLDER.findall(str(value))]


def which(tool: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(tool)


def up(path: Path) -> None:
    """Start the cluster, or bring its nodes up to date with the project's environment."""
    config = load_cluster(path)
    make_token()
    # Ray's newer autoscaler starts one machine too few of a list of addresses.
    newer = "0" if is_listed(config) else "1"
    ray(["up", "--yes", str(path)], RAY_UP_enable_autoscaler_v2=newer)


def send(path: Path) -> None:
    """Send the project to the head: code, choices, data, artefacts and DVC's cache of them.

    Raises:
        ValueError: if a run is going on there, or both sides have new trials.
    """
    load_cluster(path)
    fetch_state(path)
    ray(["exec", str(path), f"rm -rf {PROJECT}/.git/refs"])  # else deleted branches live on
    ray(["rsync-up", str(path), "./", f"{PROJECT}/"])
    remember(STATE, KNOWN)


def submit(path: Path, arguments: Sequence[str]) -> None:
    """Send the project, run `dvc repro` with these arguments there, and fetch what it made.

    Results come back also if a stage failed. A run that was interrupted goes on with the next
    `submit`.

    Raises:
        ValueError: if the run failed, or for the reasons of `send` and `fetch`.
    """
    send(path)
    try:
        ray(["submit", str(path), str(SCRIPT), "--", *map(shlex.quote, arguments)])
    finally:
        fetch(path)


def fetch(path: Path) -> None:
    """Bring back results and state, so that DVC has nothing to do here for what ran there.

    Raises:
        ValueError: if a run is still going on there, or both sides have new trials.
    """
    load_cluster(path)
    fetch_state(path)
    ray(["rsync-down", str(path), f"{PROJECT}/.dvc/cache/", ".dvc/cache/"])
    ray(["rsync-down", str(path), f"{PROJECT}/dvc.lock", "dvc.lock"])
    run(["dvc", "checkout", "--quiet", "--force", "--allow-missing"])


def fetch_state(path: Path) -> None:
    """Bring back the study and the runs, where the head's are newer than ours.

    Raises:
        ValueError: if a run is going on there, or both sides have changed.
    """
    there = f"{PROJECT}/artifacts/state"
    free = f"mkdir -p {there} && flock --nonblock {there}/cluster.lock true"
    try:
        ray(["exec", str(path), free])
    except ValueError:
        raise ValueError(
            f"{path}: the head does not answer, or a run is going on there; wait for it"
        ) from None
    copy = clear_folder(CLUSTER / "state")
    ray(["rsync-down", str(path), there, f"{CLUSTER}/"])  # names its folder, for rsync_exclude
    take_over(copy, STATE, KNOWN)


def down(path: Path) -> None:
    """Stop Ray on all machines; those of a cloud are ended."""
    config = load_cluster(path)
    if is_listed(config):  # `ray down` would leave the workers running
        ray(["exec", str(path), stop_listed(config)], check=False)
    ray(["down", "--yes", str(path)])


def stop_listed(config: dict[str, Any]) -> str:
    """Return what the head runs to stop Ray everywhere, and to forget the key that it was given."""
    options = "-i ~/ray_bootstrap_key.pem -o BatchMode=yes -o LogLevel=ERROR"
    options += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    user = config["auth"]["ssh_user"]
    workers = [
        f"ssh {options} {shlex.quote(f'{user}@{address}')} {PROJECT}/.venv/bin/ray stop"
        for address in config["provider"]["worker_ips"]
    ]
    return "; ".join(["ray stop", *workers, "rm -f ~/ray_bootstrap_key.pem"])


def is_listed(config: dict[str, Any]) -> bool:
    """Whether the file lists machines that are there."""
    return bool(config["provider"]["type"] == "local")


def make_token() -> None:
    """Make the secret that all nodes share, unless there is one; only its owner may read it."""
    path = TOKEN.expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(["ray", "get-auth-token", "--generate"], quiet=True)  # it prints the secret
    path.chmod(0o600)


def ray(arguments: Sequence[str], check: bool = True, **environment: str) -> None:
    """Run a command of Ray.

    Raises:
        ValueError: if it fails and `check` is set.
    """
    run(["ray", *arguments], check, False, **environment)


def run(
    command: Sequence[str], check: bool = True, quiet: bool = False, **environment: str
) -> None:
    """Run a command; what it prints is shown, unless it is `quiet`.

    Raises:
        ValueError: if it fails and `check` is set.
    """
    done = subprocess.run(
        command,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment},
        stdout=subprocess.DEVNULL if quiet else None,
        check=False,
    )
    if check and done.returncode:
        raise ValueError(f"`{shlex.join(command[:2])}` failed; see above")
