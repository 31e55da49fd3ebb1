"""The documented set-up, small: MLflow's server on a PostgreSQL of its own."""

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest
import requests

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.postgres import as_service_user, find_binaries, own_cluster
from pipeline.tracking.server import check_database, wait_for
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trial_run import trial_metrics
from tests.helpers.postgres_for_tests import need_postgres
from tests.helpers.projects import free_port
from tests.tracking.test_recorder import N_EPOCHS, nested, record, run_sweep


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user reaches, unlike pytest's."""
    need_postgres()
    made = Path(tempfile.mkdtemp(prefix="loqua-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """What `make mlflow-server` runs; it leaves nothing running."""
    port = free_port()
    settings = {
        "MLFLOW_PORT": str(port),
        "LOQUA_POSTGRES": str(folder / "postgres"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "files"),
    }
    others = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "server", "--workers", "1"],
            env={**others, **settings}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(120)
    assert process.returncode == 0
    assert not (folder / "postgres/postmaster.pid").exists(), "the database was stopped"


@pytest.fixture(scope="module")
def database(url: str, folder: Path) -> str:
    """The folder of the database's socket."""
    assert url
    return (folder / "postgres/postmaster.pid").read_text().splitlines()[4]


@pytest.fixture
def tracker(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield Tracker(TrackingConfig(uri=url, experiment="loqua"), tmp_path / "state")
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def query(database: str, text: str) -> str:
    command = [find_binaries() / "psql", "-h", database, "-U", "loqua", "-tAc", text]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_sweep_is_recorded_in_postgresql(tracker: Tracker, database: str) -> None:
    records = [record(number) for number in range(10)]
    run_sweep(tracker, "study", records, [])
    assert len(nested(tracker, "study")) == 10
    asked = "select count(*) from metrics m join tags t using (run_uuid) where t.key = {}"
    n_nested = query(database, asked.format("'mlflow.parentRunId'"))
    assert int(n_nested) == sum(len(trial_metrics(one)) for one in records)
    assert query(database, "select max(step) from metrics where key = 'loss'") == str(N_EPOCHS)


def test_files_and_models_travel_through_the_server(
    tracker: Tracker, folder: Path, tmp_path: Path
) -> None:
    run_id = tracker.open_run("files", "files", {})
    (tmp_path / "page.html").write_text("hello")
    tracker.log_artifacts(run_id, [tmp_path / "page.html"])
    [stored] = (folder / "files").rglob("page.html")
    assert stored.read_text() == "hello", "the server keeps it"
    assert "mlflow-artifacts:" in tracker.client.get_run(run_id).info.artifact_uri
    fetched = tracker.client.download_artifacts(run_id, "page.html", str(tmp_path / "back"))
    assert Path(fetched).read_text() == "hello"

    tracker.client.create_registered_model("toy")
    version = tracker.client.create_model_version("toy", f"runs:/{run_id}/page.html", run_id)
    tracker.client.set_registered_model_alias("toy", "champion", version.version)
    assert tracker.client.get_model_version_by_alias("toy", "champion").run_id == run_id


def test_nothing_listens_beyond_this_machine(url: str, database: str) -> None:
    assert query(database, "show listen_addresses") == ""
    port = int(url.rpartition(":")[2])
    sockets = psutil.net_connections("tcp")
    mine = {one.laddr.ip for one in sockets if one.status == "LISTEN" and one.laddr.port == port}
    assert mine == {"127.0.0.1"}


def test_only_the_one_who_started_it_gets_in(database: str) -> None:
    assert query(database, "select current_user") == "loqua"
    if os.geteuid() != 0:
        pytest.skip("needs root, to come as somebody else")
    command = as_service_user(str(find_binaries() / "psql"), "-h", database)
    other = subprocess.run(
        [*command, "-U", "loqua", "-c", "select 1"], capture_output=True, text=True, check=False,
        cwd="/",
    )  # fmt: skip
    assert other.returncode != 0
    assert "failed" in other.stderr
    assert getpass.getuser() == "root"


def test_pages_of_other_names_and_origins_are_refused(url: str) -> None:
    experiments = f"{url}/api/2.0/mlflow/experiments/search"
    ask = {"max_results": 1}
    assert requests.post(experiments, json=ask, timeout=30).status_code == 200
    rebound = requests.post(experiments, json=ask, headers={"Host": "evil.example"}, timeout=30)
    assert rebound.status_code == 403
    foreign = requests.post(
        experiments, json=ask, headers={"Origin": "http://evil.example"}, timeout=30
    )
    assert foreign.status_code == 403


def test_database_in_use_is_refused(folder: Path, database: str) -> None:
    assert database
    with (
        pytest.raises(ValueError, match="another server on this database is running"),
        own_cluster(folder / "postgres"),
    ):
        pass


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    assert check_database("postgresql://loqua@db/loqua") == "postgresql://loqua@db/loqua"
    with pytest.raises(ValueError, match="PGPASSFILE") as refused:
        check_database("postgresql://loqua:s3cret@db/loqua")
    assert "s3cret" not in str(refused.value)


def test_unreachable_folder_is_named() -> None:
    need_postgres()
    if os.geteuid() != 0:
        pytest.skip("only root hands PostgreSQL to another user")
    with tempfile.TemporaryDirectory() as private:  # 0700
        place = Path(private) / "postgres"
        with pytest.raises(ValueError, match="cannot get there; name another folder by LOQUA"):
            own_cluster(place).__enter__()
