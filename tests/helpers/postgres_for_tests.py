"""PostgreSQL for tests: what is installed; or Debian's, where the tests run as root."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.tracking.postgres import find_binaries

SETTINGS = Path("/etc/postgresql-common/createcluster.conf")


def provide_postgres() -> None:
    """Install PostgreSQL if it is absent; skip, with the reason, where that cannot be."""
    if installed():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("PostgreSQL is not installed, and tests install it only as root on Debian")
    if not SETTINGS.exists():  # only the programs: no cluster that runs from now on
        SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        SETTINGS.write_text("create_main_cluster = false\n")
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"PostgreSQL is not installed; {' '.join(command)}: {done.stderr[-300:]}")
    assert installed(), "installed, and not found"


def installed() -> bool:
    try:
        find_binaries()
    except ValueError:
        return False
    return True
