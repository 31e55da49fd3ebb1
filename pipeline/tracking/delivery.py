"""A queue that a background thread empties into something that may be away for a while.

Whoever puts things in never waits. What does not fit is left out and counted: this queue is for
a view of things that are kept elsewhere, which is made complete from there.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

LIMIT = 1_000
"""Things that wait at most."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between two attempts; every pause is twice the one before."""
SAY_EVERY_S = 10.0
"""Between two lines on what still waits."""

Send = Callable[[bool], None]
"""Sends something; is told whether an attempt before may have got through after all. Raises `Away`
or `Refused`."""


class Away(Exception):
    """The other side does not answer; the same may work later."""


class Refused(Exception):
    """The other side answered, and does not take this."""


class Delivery:
    """Sends what it is given, in order, in a thread of its own, until it has got through.

    Attributes:
        refused: why, by key.
        n_left_out: how many did not fit.
        in_doubt: whether an attempt failed that may have got through after all.
        defect: what a `Send` raised that it should not have.
    """

    def __init__(self, place: str, say: Callable[[str], None], limit: int = LIMIT) -> None:
        """Start the thread; `place` tells people where things go, `say` prints a line."""
        self.place, self.say, self.limit = place, say, limit
        self.refused: dict[str, str] = {}
        self.n_left_out = 0
        self.in_doubt = False
        self.defect: Exception | None = None
        self._waiting: dict[str, tuple[float, Send]] = {}
        self._changed = threading.Condition()
        self._busy = self._hurry = self._stopped = False
        self._progress_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def put(self, key: str, send: Send, delay_s: float = 0.0) -> bool:
        """Let `send` be called, at once or later; return at once whether it will be.

        Something of the same key that still waits is replaced, and keeps its place. A delay is
        cut short by `drain`.
        """
        with self._changed:
            due, _ = self._waiting.get(key, (time.monotonic() + delay_s, send))
            if key not in self._waiting and len(self._waiting) >= self.limit:
                self.n_left_out += 1
                return False
            self._waiting[key] = due, send
            self._changed.notify_all()
            return True

    @property
    def n_waiting(self) -> int:
        """How many are not delivered yet."""
        with self._changed:
            return len(self._waiting) + self._busy

    def drain(self, patience_s: float, at_most_s: float = math.inf) -> bool:
        """Wait until all is delivered, and return True; or give up, and return False.

        Args:
            patience_s: how long to wait without any delivery.
            at_most_s: how long to wait at all.

        Raises:
            Exception: what a `Send` raised that it should not have.
        """
        began = said = time.monotonic()
        with self._changed:
            self._progress_at = began
            self._hurry = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and not self.defect:
                now = time.monotonic()
                patience = min(self._progress_at + patience_s, began + at_most_s) - now
                if patience <= 0:
                    break
                if now - said >= SAY_EVERY_S:
                    said = now
                    self.say(f"{self._n_waiting_words()} for {self.place}")
                self._changed.wait(min(patience, SAY_EVERY_S))
            self._hurry = False
            if self.defect:
                raise self.defect
            return not self._waiting and not self._busy

    def clear(self) -> int:
        """Drop what waits; return how many these were, with one that is under way."""
        with self._changed:
            count = len(self._waiting) + self._busy
            self._waiting.clear()
            return count

    def stop(self) -> None:
        """End the thread; what waits is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)  # it may hang in a request: it is a daemon

    def _n_waiting_words(self) -> str:
        count = len(self._waiting) + self._busy
        return f"{count:,} {'waits' if count == 1 else 'wait'}"

    def _run(self) -> None:
        while taken := self._take():
            try:
                self._deliver(*taken)
            except Exception as error:  # ours: told where somebody looks, in drain
                self.defect = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _take(self) -> tuple[str, Send] | None:
        """Wait for something that is due and take it out; None when stopped."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                for key, (due, send) in self._waiting.items():
                    if self._hurry or due <= now:
                        del self._waiting[key]
                        self._busy = True
                        return key, send
                soonest = min((due for due, _ in self._waiting.values()), default=None)
                self._changed.wait(None if soonest is None else soonest - now)
            return None

    def _deliver(self, key: str, send: Send) -> None:
        """Try until it is taken or refused, or the queue is stopped."""
        failures, pause_s = 0, FIRST_PAUSE_S
        while not self._stopped:
            try:
                send(failures > 0)
            except Away as error:
                failures += 1
                self.in_doubt = True
                if failures == 2:  # one alone is a hiccup
                    self.say(f"{self.place} is away ({error}); going on, {self._n_waiting_words()}")
                self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            except Refused as error:
                if not self.refused:
                    self.say(f"{self.place} refuses {key}: {error}")
                self.refused[key] = str(error)
            if failures >= 2:
                self.say(f"{self.place} is back; {self._n_waiting_words()}")
            self._progress_at = time.monotonic()
            return

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            while not self._stopped and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
