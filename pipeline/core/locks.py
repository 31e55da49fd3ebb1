"""One writer at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path, who: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the operating system drops when this process ends, however it ends.

    Args:
        path: of the lock; its folder is made.
        who: the name of a holder, for messages.
        wait: whether to wait until another process releases it.

    Raises:
        ValueError: if another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                raise ValueError(f"{path}: {who} is running; wait for it or stop it") from None
            print(f"{who} is running; waiting until it ends", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
