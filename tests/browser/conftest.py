"""A real browser, a real sweep, and MLflow's own server over its store.

Chromium comes from Debian (`chromium`); it is installed where the tests run as root and it is
absent. Elsewhere they are skipped with the reason.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.tracking.server import serve, wait_for
from tests.browser.browsing import PATIENCE_MS, SCREENSHOTS, Shot
from tests.helpers.projects import clone, free_port, run

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """Return the browser's path, or skip."""
    found = shutil.which("chromium")
    if not found and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(command, capture_output=True, check=False, timeout=600)
        found = shutil.which("chromium")
    if not found:
        pytest.skip("no browser: install Debian's package chromium")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, headless, with a new profile."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project after `dvc repro`, with a sweep large enough to look at."""
    chromium()  # skip before the work
    folder = clone(
        tmp_path_factory.mktemp("browser") / "loqua",
        tasks=["activities", "food-drink"],
        train__rounds=3,
        sweep__n_trials=12,
        evaluate__seeds=[1, 2],
    )
    run(folder, "dvc", "repro")
    return folder


@pytest.fixture(scope="session")
def mlflow_ui(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server over the project's store, on loopback."""
    port, state = free_port(), project / "artifacts/state"
    log = tmp_path_factory.mktemp("server") / "log.txt"
    database = f"sqlite:///{state / 'mlflow.db'}"
    address = f"http://127.0.0.1:{port}"
    with serve(database, state / "served", port, options=["--workers", "1"], log=log) as server:
        wait_for(address, server)
        yield f"{address}/"


@pytest.fixture(scope="session")
def shot() -> Shot:
    """Keep a screenshot by its name, for people to look at."""

    def take(page: Page, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path, full_page=True, timeout=PATIENCE_MS)
        return path

    return take
