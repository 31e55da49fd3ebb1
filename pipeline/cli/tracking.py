"""`loqua ui` and `loqua server`: look at the runs here, and record them for others."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

LOOPBACK = "127.0.0.1"
Port = Annotated[int, Option(min=1, max=65535, envvar="MLFLOW_PORT")]


def ui(port: Port = 5000) -> None:
    """Open the MLflow UI of this project's runs, on this machine only."""
    from pipeline.core import paths
    from pipeline.core.urls import without_credentials
    from pipeline.params import load_params
    from pipeline.tracking.config import tracking_uri

    params = load_params()
    uri = tracking_uri(params.tracking, paths.STATE)
    served = uri.startswith("http")
    url = without_credentials(uri) if served else f"http://{LOOPBACK}:{port}"
    if served:
        print(f"the server {url} records the runs; open it in a browser")
        return
    from pipeline.tracking.database import make_database
    from pipeline.tracking.views import newest_links

    make_database(uri)
    found = newest_links(uri, params.tracking, url, params.register_.name)
    lines = [f"open {url}", *(f"  {what}: {link}" for what, link in found.items())]
    run(uri, paths.STATE.resolve() / "mlartifacts", LOOPBACK, port, (), "\n".join(lines))


def server(
    options: Annotated[
        list[str] | None, Argument(metavar="OPTION", help="Of `mlflow server`.")
    ] = None,
    host: Annotated[str, Option(envvar="MLFLOW_HOST")] = LOOPBACK,
    port: Port = 5000,
    database: Annotated[
        str | None,
        Option(envvar="MLFLOW_BACKEND_STORE_URI", metavar="URI", show_default="its own PostgreSQL"),
    ] = None,
    postgres: Annotated[
        Path | None, Option(envvar="LOQUA_POSTGRES", help="Folder of its own PostgreSQL.")
    ] = None,
    files: Annotated[
        str | None,
        Option(envvar="MLFLOW_ARTIFACTS_DESTINATION", help="Where models and reports are."),
    ] = None,
) -> None:
    """Serve runs and models from PostgreSQL, for several people or machines.

    It listens on this machine only, unless --host says otherwise: it asks nobody for a password.
    """
    from pipeline.core import paths
    from pipeline.tracking.postgres import own_cluster
    from pipeline.tracking.server import check_database

    if not is_loopback(host):
        print(
            f"warning: {host} can be reached from other machines, and the server has no passwords: "
            "anyone who reaches it can read, change and delete runs and models (docs/tracking.md)",
            file=sys.stderr,
        )
    own = own_cluster(postgres or paths.STATE / "postgres")
    named: AbstractContextManager[str] = nullcontext(check_database(database)) if database else own
    with named as uri:
        place = files or str(paths.STATE.resolve() / "served")
        said = f"serving: export MLFLOW_TRACKING_URI=http://{host}:{port}"
        run(uri, place, host, port, options or (), said)


def run(
    database: str, files: Path | str, host: str, port: int, options: Sequence[str], ready: str
) -> None:
    """Run MLflow's server until it ends or is interrupted; print `ready` when it answers.

    Raises:
        ValueError: if it does not start.
    """
    from pipeline.tracking.server import serve, wait_for

    with serve(database, files, port, host, options) as process:
        try:
            wait_for(f"http://{LOOPBACK if host == '0.0.0.0' else host}:{port}", process)
            print(ready, flush=True)
            status = process.wait()
        except KeyboardInterrupt:  # the usual end
            return
    raise SystemExit(status)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
