"""MLflow's tracking server as a process: on loopback, serving runs, models and their files.

Addresses of databases travel in the environment, where other users do not see them, and never
in arguments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests

from pipeline.core.urls import without_credentials

HOST = "127.0.0.1"
QUIET = {
    # MLflow 3.17 starts six more processes for jobs, which are not used here.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With more than one process uvicorn 0.54 leaves Nagle's algorithm on (uvicorn#3149), and every
    # answer waits 40 ms for a delayed acknowledgement. More can go in when that is fixed.
    "MLFLOW_WORKERS": "1",
}


def check_server(uri: str) -> None:
    """Refuse a tracking server that does not answer, before anything is computed.

    Name, password and certificate are those that MLflow's client takes.

    Raises:
        ValueError: naming the address, without a password, and what was found.
    """
    if not uri.startswith(("http://", "https://")):
        return
    name = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/health",
            auth=(name, password) if name and password else None,
            verify=verify,
            timeout=10,
        )
        found = "" if answer.ok else f"answers {answer.status_code} {answer.reason}"
    except (requests.RequestException, OSError) as error:
        found = f"does not answer ({type(error).__name__})"
    if found:
        raise ValueError(
            f"tracking.uri: the MLflow server {without_credentials(uri)} {found}; start it "
            "(make mlflow-server), or set tracking.uri to null for a local file"
        )


def check_database(uri: str) -> str:
    """Refuse a password in an address: it would end up in histories, listings and logs.

    Raises:
        ValueError: without naming the password.
    """
    if urlsplit(uri).password is not None:
        raise ValueError(
            "MLFLOW_BACKEND_STORE_URI: a password stands in the address; leave it out and name it "
            "by PGPASSFILE (a file that only you can read) or PGPASSWORD"
        )
    return uri


@contextmanager
def serve(
    database: str,
    artifacts: Path | str,
    port: int,
    host: str = HOST,
    options: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mlflow server`; end it, and its workers, with the block.

    Args:
        database: address, for SQLAlchemy, without a password.
        artifacts: folder or address (s3://...) of models and other files; clients need not see
            it, since they send and get files through the server.
        port: to listen on.
        host: address to listen on; loopback unless told otherwise.
        options: more of `mlflow server`.
        log: file for what the server prints; None: the terminal.

    Raises:
        ValueError: if a password stands in the address.
    """
    environment = {
        **QUIET,
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": check_database(database),
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    output = log.open("ab") if log else None
    process = subprocess.Popen(
        [*command, *options],
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,  # its workers get what it gets
    )
    try:
        yield process
    finally:
        end_group(process)
        if output:
            output.close()


def end_group(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End a process that leads a group, and the whole group, the hard way if it takes long."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], patience_s: float = 120.0) -> None:
    """Wait until the server answers.

    Raises:
        ValueError: if it ended, or does not answer for so long.
    """
    end = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < end:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise ValueError(f"the MLflow server did not start at {url}; see what it printed")
