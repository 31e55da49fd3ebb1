"""Serve the MLflow UI of the tracking store in force, on loopback."""

import os
import subprocess
import sys

from pipeline.core import paths
from pipeline.core.errors import run_stage
from pipeline.params import load_params
from pipeline.tracking.config import tracking_uri
from pipeline.tracking.server import QUIET
from pipeline.tracking.tracker import make_database


def main() -> None:
    """Serve until interrupted."""
    uri = tracking_uri(load_params().tracking, paths.STATE)
    if uri.startswith("http"):
        print(f"runs are recorded by the server {uri}; open it in a browser")
        return
    os.environ.update({**QUIET, **os.environ})
    make_database(uri)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"],
        check=False,
    )


if __name__ == "__main__":
    run_stage(main)
