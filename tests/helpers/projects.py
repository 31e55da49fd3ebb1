"""Small clones of the project, and commands run in them as a user runs them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
N_TRIALS = 5
"""Of the clone that test_pipeline.py and test_pipeline_docs.py share."""


LITTLE_TO_DO: dict[str, object] = {
    "tasks": ["activities"],
    "prepare__emoji__poses": {"train": 2, "val": 1, "test": 1},
    "features__views": 1,
    "features__workers": 0,
    "train__fast__stride": 1000,
    "train__fast__min_steps": 6,
    "train__rounds": 2,
    "sweep__tasks": ["activities"],
    "sweep__shots": 4,
    "sweep__seeds": [1],
}
"""Parameters, as `edit_params` takes them, of a pipeline that ends soon."""


def clone(folder: Path, **changes: object) -> Path:
    """Make a clone of the project with one task and little to do; `changes` of its parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    edit_params(folder, **{**LITTLE_TO_DO, **changes})
    commit_all(folder)
    return folder


def commit_all(project: Path) -> None:
    """Commit all files of a folder, which becomes a git repository if it is none."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run(project, "git", "init", "-q")
    run(project, "git", "add", "-A")
    run(project, "git", *identity, "commit", "-qm", "clone")


def run(
    project: Path, *command: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project with the tests' own Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**clean_environment(), "PATH": path, "PYTHONPATH": str(project), **environment},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}


def edit_params(project: Path, **changes: object) -> None:
    """Set parameters by dotted names (`__` stands for the dot)."""
    yaml = YAML()
    path = project / "params.yaml"
    params = yaml.load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = params
        for part in sections:
            section = section[part]
        section[key] = value
    with path.open("w") as file:
        yaml.dump(params, file)


class Running:
    """A command that runs in a clone, in a session of its own, and what it has printed so far."""

    def __init__(self, project: Path, *command: str, **environment: str) -> None:
        """Start it."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(project), "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(
            command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**clean_environment(), **own}, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        """What was printed so far."""
        return "".join(self.lines)

    def wait_for(self, beginning: str, timeout_s: float = 300) -> None:
        """Wait for a line that begins so, leading blanks aside."""
        wait_until(
            lambda: (
                any(line.strip().startswith(beginning) for line in self.lines)
                or self.process.poll() is not None
            ),
            timeout_s,
        )
        assert any(line.strip().startswith(beginning) for line in self.lines), self.output

    def end(self, timeout_s: float = 300) -> int:
        """Wait for its end; return the exit status."""
        status = self.process.wait(timeout_s)
        self.reader.join(10)  # longer if a process that it left behind holds the pipe
        return status


def wait_until(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait until something is so, at most that long."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not so after {timeout_s} s"
        time.sleep(0.05)


def stage_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the process of the stage that a `dvc repro` runs."""
    wait_until(lambda: bool(_stages(process.pid)))
    return _stages(process.pid)[0]


def _stages(parent: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[1:] == ["-m", "stages.sweep"]:
                found.append(child)
    return found


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
