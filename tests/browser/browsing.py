"""What the browser's tests share."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from tests.helpers.projects import REPOSITORY

SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"
PATIENCE_MS = 180_000
"""Long enough for a machine that does other things, too; no test depends on how long it takes."""

Shot = Callable[[Page, str], Path]
