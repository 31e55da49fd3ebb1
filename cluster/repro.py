"""Run `dvc repro` in the project's folder on the head of a cluster, with this script's arguments.

`ray submit` and `ray job submit` run this file with the head's own Python, so it imports nothing
of the project.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path.home() / "loqua"  # as cluster/*.yaml has it


def main() -> int:
    """Return the exit status of `dvc repro`, or 1 if another run is in progress here."""
    environment = dict(os.environ)
    environment["PATH"] = f"{PROJECT / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["RAY_AUTH_MODE"] = "token"  # Ray finds this by itself, unless RAY_ADDRESS is set
    environment.pop("OMP_NUM_THREADS", None)  # Ray 2.60: `ray submit` sets it to 1
    state = PROJECT / "artifacts" / "state"
    state.mkdir(parents=True, exist_ok=True)
    with (state / "cluster.lock").open("w") as lock:  # `loqua cluster fetch` checks it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("error: another run is in progress on this cluster; wait for its end",
                  file=sys.stderr)  # fmt: skip
            return 1
        command = ["dvc", "repro", *sys.argv[1:]]
        return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
