"""How errors reach the user: one message, without a traceback, for what the user can fix.

A `ValueError` is for the user: it names the place, what it got and what it expected. So is a disk
that is full or cannot be written. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

FULL = re.compile(rf"database or disk is full|\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]")
CLOSED = re.compile(
    r"attempt to write a readonly database|unable to open database file|"
    rf"\[Errno ({errno.EROFS}|{errno.EACCES})\]"
)


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; an error for the user becomes one line on stderr and exit status 1.

    SIGINT and SIGTERM raise a KeyboardInterrupt, and end the stage with 128 and their number.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, interrupt)
    try:
        main()
    except KeyboardInterrupt as stop:
        print("interrupted; run the same command to continue from here", file=sys.stderr)
        raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    except Exception as error:
        problem = str(error) if isinstance(error, ValueError) else disk_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(1) from None


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's interface)
    """Raise what ends a stage."""
    raise KeyboardInterrupt(number)


def report_all(title: str, problems: list[str], limit: int = 20) -> None:
    """Raise one ValueError that lists every problem; do nothing if there is none."""
    if problems:
        more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
        raise ValueError("\n  - ".join([title, *problems[:limit], *more]))


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
