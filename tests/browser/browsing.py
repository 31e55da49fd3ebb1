"""What the browser's tests share."""

import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

REPOSITORY = Path(__file__).parents[2]
SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"
PATIENCE_MS = 180_000
"""Long enough for a machine that does other things, too; no test depends on how long it takes."""

Shot = Callable[[Page, str], Path]


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers; fail with its log when it ends or stays silent."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the MLflow server does not answer:\n{log.read_text()}")
