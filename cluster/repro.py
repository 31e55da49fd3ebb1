"""Run `dvc repro` in the project's folder on the head of a cluster; arguments are handed on.

`ray submit` and `ray job submit` run this file with the head's own Python, so it imports nothing
of the project.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path.home() / "loqua"  # where cluster/*.yaml put it


def main() -> int:
    """Return the exit status of `dvc repro`; 1 if another run is going on here."""
    environment = dict(os.environ)
    environment["PATH"] = f"{PROJECT / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["RAY_AUTH_MODE"] = "token"  # found by itself, but not where RAY_ADDRESS is set
    environment.pop("OMP_NUM_THREADS", None)  # `ray submit` sets it to 1 for all that it runs
    state = PROJECT / "artifacts" / "state"
    state.mkdir(parents=True, exist_ok=True)
    with (state / "cluster.lock").open("w") as lock:  # `make cluster-fetch` looks at it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("error: another run is going on in this cluster; wait for it", file=sys.stderr)
            return 1
        command = ["dvc", "repro", *sys.argv[1:]]
        return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
