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
"""Seconds after the limit until the process ends even if no Python can run in it."""
STDERR = 2
"""The process's own, whatever Python writes to."""


@contextmanager
def time_limit(seconds: float, report: Callable[[str], object]) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`; 0 is no limit.

    Before the end, `report` gets the stack of the thread that hangs. Code that holds the
    interpreter's lock lets no `report` run: `BACKSTOP_S` later the process ends all the same, and
    its stderr says where.
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
    """Say where the thread stands, then end the process, whatever comes of saying it."""
    try:
        report("".join(traceback.format_stack(sys._current_frames()[thread])))
    finally:
        os._exit(1)
