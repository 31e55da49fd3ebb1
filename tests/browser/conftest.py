"""A real browser, a real sweep, and MLflow's own server over its store.

Chromium comes from Debian (`chromium`); it is installed where the tests run as root and it is
absent. Elsewhere they are skipped with the reason.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from test_pipeline import clean_environment, edit_params, run

from browser.browsing import PATIENCE_MS, REPOSITORY, SCREENSHOTS, Shot, wait_for

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


def repro(project: Path) -> None:
    """Run the pipeline, however long it takes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**clean_environment(), "PATH": path, "PYTHONPATH": str(project)}
    done = subprocess.run(
        ["dvc", "repro"], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
    folder = tmp_path_factory.mktemp("browser") / "loqua"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    edit_params(
        folder,
        tasks=["activities", "food-drink"],
        prepare__emoji__poses={"train": 2, "val": 1, "test": 1},
        features__workers=0,
        train__fast__stride=1000,
        train__fast__min_steps=6,
        train__rounds=3,
        sweep__tasks=["activities"],
        sweep__shots=4,
        sweep__seeds=[1],
        sweep__n_trials=12,
        evaluate__seeds=[1, 2],
    )
    run(folder, "git", "init", "-q")
    repro(folder)
    return folder


@pytest.fixture(scope="session")
def mlflow_ui(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server over the project's store, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=project, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                 "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}/"
        try:
            wait_for(f"{address}health", server, log)
            yield address
        finally:
            os.killpg(server.pid, 15)
            server.wait(60)


@pytest.fixture(scope="session")
def shot() -> Shot:
    """Keep a screenshot by its name, for people to look at."""

    def take(page: Page, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path, full_page=True, timeout=PATIENCE_MS)
        return path

    return take
