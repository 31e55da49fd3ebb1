"""What ends trials and sweeps early: falling behind, signals, and errors on the driver's side."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray.tune.stopper import Stopper

from pipeline.sweep.study import Search


class Unpickled:
    """Drops its attributes when Ray Tune pickles it for a restore, which is never used."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: the study is the state."""
        return {}


class SweepStopper(Unpickled, Stopper):  # type: ignore[misc]  # Ray is untyped
    """Stops trials that fall behind, and a sweep whose driver cannot continue.

    Ray Tune 2.60 takes an exception of a callback for one of the trial, and continues. Here the
    first one stops the sweep, as SIGINT and SIGTERM do; a second signal does not wait for workers.
    """

    def __init__(self, search: Search) -> None:
        """Let the sweep run."""
        self.search = search
        self.error: BaseException | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 (Ray's)
        """Return whether the trial is stopped."""
        return self.search.falls_behind(result["record"])

    def stop_all(self) -> bool:
        """Return whether the sweep is to end."""
        return self.error is not None

    @contextmanager
    def guards(self) -> Iterator[None]:
        """Stop the sweep if the block raises; the exception is raised when the sweep has ended."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first signal stop the sweep, and the second interrupt it at once."""

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's interface)
            if isinstance(self.error, KeyboardInterrupt):
                raise self.error
            self.error = KeyboardInterrupt(number)

        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
