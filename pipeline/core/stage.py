"""How a stage or a command runs; an error that the user can fix is one message, no traceback.

A `ValueError` is for the user: it names the place, what it got and what it expected. So is a disk
that is full or cannot be written. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from pipeline.core.causes import disk_problem


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
