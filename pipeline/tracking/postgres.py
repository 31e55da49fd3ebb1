"""A PostgreSQL cluster of one's own, for the tracking server: no password, no port.

It listens on a unix socket alone and lets in one user of this machine, for whom the kernel
vouches (PostgreSQL's `peer` authentication): the one that started it.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.locks import exclusive

DATABASE = ROLE = "loqua"
SERVICE_USER = "postgres"
"""Who runs PostgreSQL in root's place, since PostgreSQL refuses root."""
DEBIAN = Path("/usr/lib/postgresql")


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs: on the PATH, or where Debian has them.

    Raises:
        ValueError: if there are none.
    """
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "psql", "createdb")):
            return folder
    raise ValueError(
        "PostgreSQL is not installed (initdb, pg_ctl): install it (Debian: apt-get install "
        "postgresql), or name a database by MLFLOW_BACKEND_STORE_URI"
    )


@contextmanager
def own_cluster(folder: Path) -> Iterator[str]:
    """Make a cluster in `folder`, or find it there; start it, and stop it with the block.

    Yields:
        the address of its database, for SQLAlchemy.

    Raises:
        ValueError: if PostgreSQL is not installed, `folder` is in use or cannot be used.
    """
    binaries, folder = find_binaries(), folder.resolve()
    with (
        exclusive(folder.with_name(f"{folder.name}.lock"), "another server on this database"),
        tempfile.TemporaryDirectory(prefix="loqua-pg-", dir="/tmp") as socket,  # noqa: S108 (short)
    ):
        _give(Path(socket))
        _make(binaries, folder)
        control = (str(binaries / "pg_ctl"), "-D", str(folder), "-w", "-s")
        if (folder / "postmaster.pid").exists():  # nobody holds the lock: left by a killed one
            _run(*control, "-m", "fast", "stop", check=False)
        options = f"-c listen_addresses= -c unix_socket_directories={shlex.quote(socket)}"
        _run(*control, "-l", str(folder / "log"), "-o", options, "start")
        try:
            _create_database(binaries, socket)
            yield f"postgresql+psycopg://{ROLE}@/{DATABASE}?host={socket}"
        finally:
            _run(*control, "-m", "fast", "stop")


def _make(binaries: Path, folder: Path) -> None:
    """Make the cluster, unless it is there; say who may enter."""
    if not (folder / "PG_VERSION").exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _give(folder)
        _run(
            str(binaries / "initdb"), "-D", str(folder), "-U", ROLE, "-E", "UTF8", "--no-locale",
            "--auth-local=peer", "--auth-host=reject",
        )  # fmt: skip
    (folder / "pg_hba.conf").write_text(f"local all {ROLE} peer map={ROLE}\n")
    (folder / "pg_ident.conf").write_text(f"{ROLE} {getpass.getuser()} {ROLE}\n")


def _create_database(binaries: Path, socket: str) -> None:
    there = ("-h", socket, "-U", ROLE)
    asked = f"select 1 from pg_database where datname = '{DATABASE}'"
    found = subprocess.run(
        [str(binaries / "psql"), *there, "-d", "postgres", "-tAc", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    if not found.stdout.strip():
        _checked([str(binaries / "createdb"), *there, DATABASE])


def _give(folder: Path) -> None:
    """Let PostgreSQL's user own a folder, and look whether it can get there.

    Raises:
        ValueError: if it cannot.
    """
    if os.geteuid() != 0:
        return
    try:
        shutil.chown(folder, SERVICE_USER)
    except LookupError:
        raise ValueError(
            f"PostgreSQL does not run as root, and there is no user {SERVICE_USER} to run it as"
        ) from None
    reached = subprocess.run(as_service_user("test", "-w", str(folder)), check=False, cwd="/")
    if reached.returncode:
        raise ValueError(
            f"{folder}: the user {SERVICE_USER}, who runs PostgreSQL in root's place, cannot get "
            "there; name another folder by LOQUA_POSTGRES (such as /srv/loqua/postgres)"
        )


def as_service_user(*command: str) -> list[str]:
    """Return a command as the user who runs PostgreSQL if that may not be this one, root."""
    if os.geteuid() != 0:
        return [*command]
    found = shutil.which("runuser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return [found or "runuser", "-u", SERVICE_USER, "--", *command]


def _run(*command: str, check: bool = True) -> None:
    _checked(as_service_user(*command), check)


def _checked(command: list[str], check: bool = True) -> None:
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, cwd="/"
    )
    if check and done.returncode:
        raise ValueError(f"PostgreSQL: {' '.join(command)}: {done.stderr.strip()}")
