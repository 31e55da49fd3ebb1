"""Serve runs and models: MLflow on PostgreSQL, on loopback unless told otherwise.

Settings are MLflow's own variables: MLFLOW_HOST, MLFLOW_PORT, MLFLOW_BACKEND_STORE_URI,
MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_SERVER_ALLOWED_HOSTS; arguments go to `mlflow server`.
Without a database, one of its own is made in LOQUA_POSTGRES, and stopped with the server.
"""

import ipaddress
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import run_stage
from pipeline.tracking.postgres import own_cluster
from pipeline.tracking.server import HOST, check_database, serve, wait_for


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def port_in_force() -> int:
    """Return the port.

    Raises:
        ValueError: unless it is a number.
    """
    port = os.environ.get("MLFLOW_PORT", "5000")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"MLFLOW_PORT: found {port!r}; allowed are 1 to 65535")
    return int(port)


def database() -> AbstractContextManager[str]:
    """Return the database in force; one of our own starts and stops with the context."""
    named = os.environ.get("MLFLOW_BACKEND_STORE_URI")
    if named:
        return nullcontext(check_database(named))
    return own_cluster(Path(os.environ.get("LOQUA_POSTGRES", paths.STATE / "postgres")))


def stop(*_: object) -> None:
    """End as after Ctrl-C: with everything that was started."""
    raise KeyboardInterrupt


def main() -> None:
    """Serve until interrupted."""
    host, port = os.environ.get("MLFLOW_HOST", HOST), port_in_force()
    files = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", paths.STATE.resolve() / "served")
    if not is_loopback(host):
        print(
            f"warning: {host} is more than this machine, and the server asks nobody for a name: "
            "whoever gets there reads, changes and deletes runs and models (docs/tracking.md)",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, stop)
    with database() as uri, serve(uri, files, port, host, sys.argv[1:]) as server:
        try:
            wait_for(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", server)
            print(f"serving: export MLFLOW_TRACKING_URI=http://{host}:{port}", flush=True)
            status = server.wait()
        except KeyboardInterrupt:
            return
    raise SystemExit(status)


if __name__ == "__main__":
    run_stage(main)
