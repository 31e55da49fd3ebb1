"""A time limit on work that may hang, without help from the work."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BACKSTOP_S = 30.0
"""Seconds after the limit until the process ends even if no Python code can run in it."""
STDERR = 2
"""The file descriptor: `sys.stderr` may be another file."""


@contextmanager
def time_limit(seconds: float, report: Callable[[str], object]) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`; 0 is no limit.

    Before the end, `report` gets the stack of the thread that hangs. While code holds the
    interpreter's lock, no `report` can run: `BACKSTOP_S` later the process ends without it, and
    its stderr has the stack.
    """
    if not seconds:
        yield
        return
    timer = threading.Timer(seconds, _end, (threading.get_ident(), report))
    timer.daemon = True
    faulthandler.dump_traceback_later(seconds + BACKSTOP_S, exit=True, file=STDERR)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(thread: int, report: Callable[[str], object]) -> None:
    """Report the stack of a thread, then end the process, even if the report fails."""
    try:
        report("".join(traceback.format_stack(sys._current_frames()[thread])))
    finally:
        os._exit(1)
