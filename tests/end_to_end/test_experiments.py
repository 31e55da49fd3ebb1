"""DVC's experiments for real, queued and in place: what they leave, and that nothing is lost."""

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.projects import clone, run, wait_until

pytestmark = pytest.mark.experiments
QUEUED = {
    "two": ["prompt.rank=2"],
    "method": ["method=rlp", "sweep.seeds=[2]"],
    "pinned": ["sweep.space={prompt.rank:[2]}", "sweep.first=[]"],
    "shots": ["protocol=few_shot", "protocols.few_shot.shots=[1,2]"],
    "wrong": ["prompt.rank=two"],
}


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished project, and experiments that were queued and ended."""
    project = clone(
        tmp_path_factory.mktemp("experiments") / "loqua", sweep__n_trials=3, evaluate__seeds=[1]
    )
    run(project, "dvc", "repro")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run(project, "git", *identity, "commit", "-qm", "Baseline", "dvc.lock")
    for name, changes in QUEUED.items():
        options = [word for change in changes for word in ("-S", change)]
        run(project, "dvc", "exp", "run", "--queue", "-n", name, *options)
    assert run(project, "git", "status", "--porcelain").stdout == "", "the checkout is unchanged"
    # The worker stays in the background and would hold a pipe.
    run(project, "bash", "-c", "dvc queue start > started.txt 2>&1")
    try:
        wait_until(lambda: ended(project), timeout_s=3000)
        yield project
    finally:
        run(project, "dvc", "queue", "stop", "--kill", check=False)


def ended(project: Path) -> bool:
    """Whether nothing is queued or running."""
    status = run(project, "dvc", "queue", "status").stdout
    return "Queued" not in status and "Running" not in status and "Success" in status


def rows(project: Path) -> dict[str, dict[str, str]]:
    """The table of experiments, by name."""
    shown = run(project, "dvc", "exp", "show", "--csv", "--no-pager").stdout
    return {row["Experiment"]: row for row in csv.DictReader(io.StringIO(shown))}


def names(project: Path, database: str, question: str) -> list[str]:
    """What a database of the state folder answers."""
    with sqlite3.connect(project / "artifacts/state" / database) as connection:
        return [str(row[0]) for row in connection.execute(question)]


def test_the_table_has_what_was_changed_and_what_came_out(queued: Path) -> None:
    found = rows(queued)
    assert {name: found[name]["State"] for name in QUEUED} == {
        "two": "Success", "method": "Success", "pinned": "Success", "shots": "Success",
        "wrong": "Failed",
    }  # fmt: skip
    assert found["two"]["prompt.rank"] == "2"
    assert found["method"]["method"] == "rlp"
    for name in ("two", "method", "pinned"):
        assert 0 < float(found[name]["champion.harmonic_mean"]) <= 1
        assert int(found[name]["champion.size_bytes"]) >= 0
    compared = run(queued, "make", "-o", ".venv/.ready", "compare", COLUMNS="120").stdout
    assert "champion.harmonic_mean" in compared
    assert "champion.size_bytes" in compared
    assert "pipeline/" not in compared


def test_a_wrong_value_is_told_by_the_first_stage(queued: Path) -> None:
    told = run(queued, "dvc", "queue", "logs", "wrong").stdout
    assert "got 'two'" in told
    assert "Traceback" not in told


def test_a_key_that_is_not_there_is_refused_before_anything_runs(queued: Path) -> None:
    done = run(queued, "dvc", "exp", "run", "-S", "prompt.rnak=2", check=False)
    assert done.returncode != 0
    assert "rnak" in done.stderr
    done = run(queued, "dvc", "exp", "run", "--temp", "-S", "+prompt.rnak=2", check=False)
    assert done.returncode != 0
    assert "prompt.rnak: unknown key" in done.stderr + done.stdout


def test_studies_and_runs_are_in_the_checkout(queued: Path) -> None:
    studies = names(queued, "optuna.db", "select study_name from studies")
    assert len(studies) == 3, "the baseline's, with another seed, and with another space"
    runs = names(queued, "mlflow.db", "select name from runs")
    assert set(studies) <= set(runs)
    states = names(queued, "mlflow.db", "select distinct status from runs")
    assert set(states) == {"FINISHED"}
    copies = [path for path in (queued / ".dvc/tmp/exps").glob("tmp*") if path.is_dir()]
    assert not copies, "DVC deleted its copies"


def test_what_is_searched_is_not_searched_again(queued: Path) -> None:
    for name in ("two", "shots"):
        told = run(queued, "dvc", "queue", "logs", name).stdout
        assert "trials known" not in told, "the study was complete"
    told = run(queued, "dvc", "queue", "logs", "pinned").stdout
    assert "0 of 3 trials known" in told


def test_an_experiment_is_applied_and_leaves_its_results(queued: Path) -> None:
    run(queued, "dvc", "exp", "apply", "pinned")
    trials = json.loads((queued / "artifacts/sweep/trials.json").read_text())["trials"]
    assert {trial["settings"]["prompt.rank"] for trial in trials} == {2}
    assert run(queued, "dvc", "exp", "diff", "two").returncode == 0
