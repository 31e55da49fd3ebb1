"""How errors reach people: one message, without a traceback, for what they can mend.

A `ValueError` is for people: it names the place, what was found and what is allowed. A disk that is
full or cannot be written is for people, too. Anything else is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; an error for people becomes one line on stderr and exit status 1.

    SIGINT and SIGTERM raise a KeyboardInterrupt, and end the stage with 128 and their number.
    """
    from pipeline.core.disk import disk_problem  # it reports by `report_all`

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, interrupt)
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        print("interrupted; run the same command to go on from here", file=sys.stderr)
        raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(1) from None


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's interface)
    """Raise what ends a stage."""
    raise KeyboardInterrupt(number)


def report_all(title: str, problems: list[str], limit: int = 20) -> None:
    """Raise one ValueError that lists every problem found; do nothing if there is none."""
    if problems:
        more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
        raise ValueError("\n  - ".join([title, *problems[:limit], *more]))


def root_of(error: BaseException) -> str:
    """Say what is at the root of an error, in one short line."""
    while below := error.__cause__ or error.__context__:
        error = below
    text = str(error).split("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
