"""The disk is full, or closed."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.states import N_TRIALS, SWEEP, check_databases, check_whole, finished, resume
from tests.helpers.projects import Running, run

pytestmark = pytest.mark.faults


@contextmanager
def small_disk(folder: Path, options: str = "size=40m") -> Iterator[None]:
    """Mount a small file system over a folder; skip where this is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; return the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


def check_one_error(output: str, said: str) -> None:
    """One sentence, no traceback."""
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert said in errors[0]


def test_a_full_disk_under_the_study_is_one_error_and_the_sweep_goes_on_after(
    project: Path,
) -> None:
    state = project / "artifacts/state"
    with small_disk(state):
        sweep = Running(project, *SWEEP)
        sweep.wait_for("1/")
        filler = fill(state)
        assert sweep.end() == 1, sweep.output
        check_one_error(sweep.output, "the disk is full")
        refused = run(project, *SWEEP, check=False)
        assert refused.returncode == 1
        check_one_error(refused.stderr, "folders that cannot be written; nothing was changed")
        check_databases(project)
        filler.unlink()
        before = finished(project)
        assert 1 <= len(before) < N_TRIALS
        resume(project, len(before))
        check_whole(project, before)


def test_a_full_disk_under_the_results_is_one_error_and_they_are_written_after(
    project: Path,
) -> None:
    results = project / "artifacts/sweep"
    with small_disk(results):
        sweep = Running(project, *SWEEP)
        sweep.wait_for("1/")
        filler = fill(results)
        assert sweep.end() == 1, sweep.output
        check_one_error(sweep.output, "the disk is full")
        assert sorted(path.name for path in results.iterdir()) == ["filler"], "no half file"
        filler.unlink()
        before = finished(project)
        assert len(before) == N_TRIALS, "training did not need that disk"
        resume(project, N_TRIALS)
        check_whole(project, before)


@pytest.mark.parametrize("name", ["state", "sweep"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(project: Path, name: str) -> None:
    folder = project / "artifacts" / name
    if os.geteuid() == 0:  # permissions do not stop root
        with small_disk(folder, "ro"):
            refused = run(project, *SWEEP, check=False)
    else:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o555)
        refused = run(project, *SWEEP, check=False)
        folder.chmod(0o755)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert f"artifacts/{name}: " in refused.stderr
    check_one_error(refused.stderr, "folders that cannot be written; nothing was changed")
    resume(project, 0)
    check_whole(project, {})


def test_rays_own_folder_on_a_full_disk_is_one_error(project: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # its sockets' paths must be short
        with small_disk(Path(folder)):
            fill(Path(folder))
            refused = run(project, *SWEEP, check=False, RAY_TMPDIR=folder)
        assert refused.returncode == 1
        check_one_error(refused.stderr, "folders that cannot be written; nothing was changed")
        assert f"{folder}: 0.0 MB free" in refused.stderr
    resume(project, 0)
    check_whole(project, {})
