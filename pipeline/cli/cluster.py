"""`loqua cluster`: start machines, run the pipeline on them, fetch results, stop them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Cluster = Annotated[Path, Option("--cluster", metavar="FILE", help="The cluster's file.")]
MACHINES = Path("cluster/machines.yaml")


def up(cluster: Cluster = MACHINES) -> None:
    """Start the machines, or bring them up to date."""
    from pipeline.sweep import launcher

    launcher.up(cluster)


def submit(
    arguments: Annotated[
        list[str] | None,
        Argument(metavar="STAGE", help="Arguments of `dvc repro`.", show_default="evaluate"),
    ] = None,
    cluster: Cluster = MACHINES,
) -> None:
    """Send the project, run `dvc repro` on the head, and fetch the results."""
    from pipeline.sweep import launcher

    with prepared(cluster):
        launcher.submit(cluster, arguments or ["evaluate"])


def send(cluster: Cluster = MACHINES) -> None:
    """Send the project to the head, and run nothing."""
    from pipeline.sweep import launcher

    with prepared(cluster):
        launcher.send(cluster)


def fetch(cluster: Cluster = MACHINES) -> None:
    """Fetch the results of runs on the head."""
    from pipeline.sweep import launcher

    launcher.fetch(cluster)


def down(cluster: Cluster = MACHINES) -> None:
    """Stop the machines."""
    from pipeline.sweep import launcher

    launcher.down(cluster)


@contextmanager
def prepared(cluster: Path) -> Iterator[None]:
    """Check all settings, lock out sweeps here, and make what the head must not make itself.

    Raises:
        ValueError: if a setting is wrong, or a sweep is running in this checkout.
    """
    from pipeline.core import paths
    from pipeline.core.locks import exclusive
    from pipeline.core.provenance import checkout_id
    from pipeline.params import load_params
    from pipeline.sweep.launcher import load_cluster
    from pipeline.tracking.tracker import Tracker

    params = load_params()
    load_cluster(cluster)
    with exclusive(paths.STATE / "sweep.lock", "another sweep"):
        # The head works on copies of these two; made here, they name this checkout.
        checkout_id()
        Tracker(params.tracking, paths.STATE)
        yield
