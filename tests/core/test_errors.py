"""Full and closed disks are one sentence; other errors stay what they are."""

import errno
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from pipeline.core.causes import disk_problem, root_of
from pipeline.core.disk import MIN_FREE_BYTES, check_writable
from pipeline.core.errors import report_all
from pipeline.core.stage import run_stage


def nested(first: Exception) -> Exception:
    """An error that hides another one."""
    try:
        try:
            raise first
        except Exception as error:
            raise RuntimeError("the store failed") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "the disk is full: .*x/y"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "cannot be written: .*'x'"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "cannot be written"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "cannot be written"),
        (RuntimeError("in a worker:\n  OSError: [Errno 28] No space left\nbye"), "disk is full"),
    ],
)
def test_a_disk_behind_an_error_is_found(error: Exception, said: str) -> None:
    for found in (error, nested(error)):
        problem = disk_problem(found)
        assert problem is not None
        assert "\n" not in problem
        assert problem.endswith("run the same command again")
        assert root_of(found) == str(error).split("\n")[0]
        pytest.raises(ValueError, raise_, problem).match(said)


def raise_(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize(
    "error", [KeyError("x"), FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("odd")]
)
def test_other_errors_are_not_the_disks(error: Exception) -> None:
    assert disk_problem(error) is None
    with pytest.raises(type(error)):
        run_stage(lambda: (_ for _ in ()).throw(error))


def test_all_folders_that_cannot_be_written_are_named_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == [], "nothing is left"
    (tmp_path / "file").touch()
    monkeypatch.setattr("pipeline.core.disk.MIN_FREE_BYTES", 2**80)
    with pytest.raises(ValueError, match="cannot be written") as caught:
        check_writable(tmp_path / "file", tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    assert "file:" in lines[0]
    assert "MB free" in lines[1]
    assert MIN_FREE_BYTES < 2**30


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("here: found x"), 1, "error: here: found x"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_stage_ends_with_one_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: (_ for _ in ()).throw(error))
    assert caught.value.code == status
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_stage_with_their_number(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: os.kill(os.getpid(), number))
    assert caught.value.code == 128 + number


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_stage(lambda: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_long_lists_of_problems_are_cut() -> None:
    report_all("nothing wrong", [])
    with pytest.raises(ValueError, match="and 5 more") as caught:
        report_all("title", [f"problem {i}" for i in range(25)])
    assert str(caught.value).count("\n") == 21


@pytest.fixture(autouse=True)
def _handlers() -> object:
    """Put back what `run_stage` sets."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
