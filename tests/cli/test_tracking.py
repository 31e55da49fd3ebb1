"""`loqua ui` and `loqua server` as processes; the server on PostgreSQL is in tests/tracking."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from pipeline.cli.tracking import is_loopback
from tests.helpers.cli import loqua
from tests.helpers.projects import REPOSITORY, clean_environment, free_port


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without runs; the current folder."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def test_ui_serves_the_runs_of_this_project_until_interrupted(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)],
        env={**clean_environment(), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert f"open http://127.0.0.1:{port}\n" in iter(process.stdout.readline, "")
        assert requests.get(f"http://127.0.0.1:{port}", timeout=30).ok
        assert (tmp_path / "artifacts/state/mlflow.db").is_file()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_ui_of_a_server_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1" in loqua("ui").stdout


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_wrong_port_is_wrong_usage(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", port)
    done = loqua("server")
    assert done.exit_code == 2
    assert "MLFLOW_PORT" in done.stderr


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    done = loqua("server", "--database", "postgresql://loqua:s3cret@db/loqua")
    assert done.exit_code == 1
    assert "PGPASSFILE" in done.stderr
    assert "s3cret" not in done.output


def test_options_reach_mlflow_and_a_server_that_does_not_start_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = loqua("server", "--database", f"sqlite:///{tmp_path / 'x.db'}", "--no-such-option")
    assert done.exit_code == 1
    assert "the MLflow server did not start" in done.stderr
    assert "--no-such-option" in capfd.readouterr().err, "MLflow names it"


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.3", "mlflow.example")))  # noqa: S104
