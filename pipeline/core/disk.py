"""Disks that are full or cannot be written, found before any work."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.core.errors import report_all

MIN_FREE_BYTES = 16 * 2**20
"""What a stage needs before it begins."""


def check_writable(*folders: Path) -> None:
    """Refuse folders that cannot be written, or have almost no space.

    Raises:
        ValueError: naming all of them.
    """
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        if free < MIN_FREE_BYTES:
            needed = MIN_FREE_BYTES // 2**20
            problems.append(f"{folder}: {free / 2**20:.1f} MB free; expected at least {needed}")
    report_all("folders that cannot be written; nothing was changed", problems)
