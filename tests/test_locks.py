"""One writer at a time."""

from pathlib import Path

import pytest

from pipeline.locks import exclusive


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
