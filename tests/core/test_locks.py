"""One writer at a time."""

import threading
from pathlib import Path

import pytest

from pipeline.core.locks import exclusive


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    with (
        exclusive(path, "a sweep"),
        pytest.raises(ValueError, match="lock: a sweep is running"),
        exclusive(path, "a sweep"),
    ):
        pass
    with exclusive(path, "a sweep"):
        pass


def test_the_lock_is_dropped_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with exclusive(tmp_path / "lock", "a sweep"):
            raise RuntimeError("stop")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop"):
            fail()


def test_a_writer_that_waits_comes_after_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    held, path = threading.Event(), tmp_path / "lock"

    def wait() -> None:
        held.wait()
        with exclusive(path, "a sweep", wait=True):
            order.append("second")

    second = threading.Thread(target=wait)
    second.start()
    with exclusive(path, "a sweep"):
        held.set()
        second.join(timeout=0.5)  # it has come to the lock, or not yet; it is never past it
        order.append("first")
    second.join(timeout=60)
    assert order == ["first", "second"]
