"""What caused an error: a disk that is full or closed, or the first error of a chain."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

FULL = re.compile(rf"database or disk is full|\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]")
CLOSED = re.compile(
    r"attempt to write a readonly database|unable to open database file|"
    rf"\[Errno ({errno.EROFS}|{errno.EACCES})\]"
)


def disk_problem(error: BaseException) -> str | None:
    """Return a sentence if a disk that is full or closed caused an error, else None.

    Errors of workers and of databases have only text; an operating system's error has its number
    in the text, too.
    """
    for cause in causes(error):
        for line in map(str.strip, reversed(str(cause).splitlines())):
            if FULL.search(line):
                return f"the disk is full: {line}. Free some space and run the same command again"
            if CLOSED.search(line):
                return f"cannot be written: {line}. Make it writable and run the same command again"
    return None


def root_of(error: BaseException) -> str:
    """Return the message of the first cause of an error, in one short line."""
    *_, root = causes(error)
    text = str(root).split("\n")[0] or type(root).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it, the first cause last."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and not any(following is one for one in seen):
        seen.append(following)
        yield following
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context
