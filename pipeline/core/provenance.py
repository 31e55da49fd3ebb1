"""Where a result comes from: versions, git commit, hashes."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from pipeline.core import paths
from pipeline.core.code import code_identity
from pipeline.core.files import write_atomic

PACKAGES = ("torch", "open_clip_torch", "ray", "optuna", "mlflow", "dvc", "numpy")


def git_commit() -> str:
    """Return the commit, with `-dirty` if tracked files differ, or `unknown` outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


@dataclass(frozen=True)
class Origin:
    """Which code made a result.

    Attributes:
        git_commit: see `git_commit`.
        code: identity by meaning of the modules that made it; see `core.code.code_identity`.
    """

    git_commit: str
    code: str


def origin(modules: Iterable[str]) -> Origin:
    """Return the origin of what these modules, and all that they import, are about to make."""
    return Origin(git_commit(), code_identity(modules))


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change a number."""
    return {package: version(package) for package in PACKAGES}


def checkout_id() -> str:
    """Return what tells this copy of the project from others; made with the first sweep.

    Two copies that use one tracking server are two sweeps there.
    """
    path = paths.STATE / "checkout.txt"
    if not path.exists():
        write_atomic(path, lambda temporary: temporary.write_text(secrets.token_hex(3)))
    return path.read_text()
