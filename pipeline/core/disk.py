"""Disks that are full or cannot be written, told in one sentence."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import report_all

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES)
SQLITE_FULL = "database or disk is full"
SQLITE_CLOSED = ("attempt to write a readonly database", "unable to open database file")
MIN_FREE_BYTES = 16 * 2**20
"""What a stage wants to find free before it begins."""


def check_writable(*folders: Path) -> None:
    """Refuse folders that cannot be written, or have next to no space, before any work.

    Raises:
        ValueError: naming all of them.
    """
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES:
            problems.append(
                f"{folder}: {free / 2**20:.1f} MB are free, at least {MIN_FREE_BYTES // 2**20} "
                "are needed"
            )
    report_all("folders that cannot be written; nothing was changed", problems)


def disk_problem(error: BaseException) -> str | None:
    """Return a sentence if a full or closed disk is behind an error, else None."""
    for cause in chain(error):
        text = str(cause)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if isinstance(cause, OSError) and cause.errno in (*FULL, *CLOSED):
            return sentence(cause.errno in FULL, text)
        for line in reversed(lines):
            if SQLITE_FULL in line or f"[Errno {errno.ENOSPC}]" in line:
                return sentence(True, line)
            if f"[Errno {errno.EROFS}]" in line or any(part in line for part in SQLITE_CLOSED):
                return sentence(False, line)
    return None


def sentence(full: bool, found: str) -> str:
    """Say what is to be done."""
    if full:
        return f"the disk is full: {found}. Free some space and run the same command to go on"
    return f"cannot be written: {found}. Make it writable and run the same command to go on"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context


def root_of(error: BaseException) -> str:
    """Say what is at the root of an error, in one short line."""
    while below := error.__cause__ or error.__context__:
        error = below
    text = str(error).split("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
