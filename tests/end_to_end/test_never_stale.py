"""What a result says of its origin is its origin: changes of every kind, and what follows.

`dvc status` is asked about all of them here, which takes seconds. What really runs, trains and
changes is tried with DVC, Ray and MLflow by `make test-experiments`.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.prompts.file import load_prompt
from tests.helpers.changes import CHANGES, Change
from tests.helpers.projects import clone, commit_all, run

TASK = "activities"


def outdated(project: Path) -> set[str]:
    """Return the stages that DVC says are out of date, by their own dependencies."""
    with Repo(str(project)) as repo:
        found = repo.status()
    return {
        stage.rpartition(":")[2].partition("@")[0]
        for stage, problems in found.items()
        if any("changed deps" in problem for problem in problems if isinstance(problem, dict))
    }


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which every stage counts as done: its outputs are empty."""
    project = clone(tmp_path_factory.mktemp("committed") / "loqua")
    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text())["stages"]
    for stage in (found.get("do", found) for found in stages.values()):
        for out in (*stage["outs"], *stage.get("metrics", ())):
            name = next(iter(out)) if isinstance(out, dict) else out
            path = project / name.replace("${item}", TASK)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}") if path.suffix else path.mkdir()
    (project / f"artifacts/sources/{TASK}.json").write_text("{}")
    run(project, "dvc", "commit", "-f")
    assert outdated(project) == set()
    return project


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_dvc_knows_what_a_change_outdates(committed: Path, change: Change) -> None:
    tracked = run(committed, "git", "ls-files").stdout.splitlines()
    before = {name: (committed / name).read_bytes() for name in tracked}
    change.make(committed)
    try:
        assert outdated(committed) == set(change.outdated.split())
    finally:
        for name, data in before.items():
            if (committed / name).read_bytes() != data:
                (committed / name).write_bytes(data)


FIRST = [
    {"prompt.rank": rank, "prompt.bits": bits, "prompt.n_ctx": 4, "train.lr": 0.002}
    for rank, bits in (("full", 16), (1, 1))
]


@dataclass(frozen=True)
class State:
    """What a project's artefacts say.

    Attributes:
        numbers: all that trials and tests measured.
        study: its name.
        trials, results, prompts: the origins of each.
        versions: how many are registered.
    """

    numbers: str
    study: str
    trials: list[dict[str, str]]
    results: dict[str, str]
    prompts: list[dict[str, str]]
    versions: int


def read(project: Path) -> State:
    folder = project / "artifacts"
    trials, results = (
        json.loads((folder / name).read_text())
        for name in ("sweep/trials.json", "evaluate/results.json")
    )
    tests = [*results["measurements"], *results["pareto"]["measurements"]]
    numbers = [trial["history"] for trial in trials["trials"]] + [one["accuracy"] for one in tests]
    provenance = results["provenance"]
    prompts = [load_prompt(path)[1] for path in sorted(folder.glob("evaluate/prompts/*"))]
    versions = json.loads((folder / "register/models.json").read_text())["versions"]
    return State(
        json.dumps(numbers),
        results["study"],
        [trial["origin"] for trial in trials["trials"]],
        {key: provenance[key] for key in ("git_commit", "code")},
        [about["origin"] for about in prompts],
        max(int(one["version"]) for one in versions),
    )


def repro(project: Path) -> str:
    """Run the pipeline; return the stages that ran, and check that nothing is left to do."""
    printed = run(project, "dvc", "repro").stdout
    ran = [stage.partition("@")[0] for stage in re.findall(r"Running stage '([^']+)'", printed)]
    again = run(project, "dvc", "repro").stdout
    assert re.findall(r"Running stage '([^']+)'", again) == ["sources"]
    return " ".join(stage for stage in ran if stage != "sources")


def identity(project: Path, module: str) -> str:
    """Return the identity of a module's code in a project."""
    code = f"from pipeline.core.code import code_identity; print(code_identity(['{module}']))"
    return run(project, sys.executable, "-c", code).stdout.strip()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that ran, committed."""
    project = clone(
        tmp_path_factory.mktemp("finished") / "loqua",
        sweep__n_trials=2, sweep__first=FIRST, evaluate__seeds=[1],
    )  # fmt: skip
    repro(project)
    commit_all(project)
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, as it was before other changes: MLflow keeps paths, so it is in the same place."""
    shutil.copytree(finished, tmp_path / "kept", symlinks=True)
    yield finished
    shutil.rmtree(finished)
    shutil.move(tmp_path / "kept", finished)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """The rows of a table; it is printed at the end."""
    rows = [
        "| change | stages that ran | trials | numbers | new version |",
        "|---|---|---|---|---|",
    ]
    yield rows
    print("\n" + "\n".join(rows))


@pytest.mark.experiments
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_what_a_change_runs_and_what_its_results_say(
    project: Path, change: Change, table: list[str]
) -> None:
    before = read(project)
    change.make(project)
    ran, after = repro(project), read(project)
    trained, same = after.study != before.study, after.numbers == before.numbers
    table.append(
        f"| {change.name} | {ran or '-'} | {'new' if trained else 'kept'} | "
        f"{'equal' if same else 'other'} | {'yes' if after.versions > before.versions else 'no'} |"
    )
    assert ran == change.ran
    assert (trained, same) == (change.trains, change.same)
    assert (after.versions > before.versions) is change.new_version
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    dirty = f"{commit}-dirty"
    if trained:
        assert {origin["git_commit"] for origin in after.trials} == {dirty}
    else:
        assert after.trials == before.trials, "trials are of the code that made them"
    if "evaluate" in ran.split():
        code = identity(project, "pipeline.training.evaluation")
        assert after.results == {"git_commit": dirty, "code": code}
    else:
        assert after.results == before.results
    assert all(origin == after.results for origin in after.prompts)


@pytest.mark.experiments
def test_two_edits_in_a_row_without_a_commit_are_two_changes(project: Path) -> None:
    states = [read(project)]
    for name in ("the loss", "the schedule"):
        next(change for change in CHANGES if change.name == name).make(project)
        assert repro(project) == "sweep evaluate register report"
        states.append(read(project))
    for key in ("numbers", "study"):
        assert len({getattr(state, key) for state in states}) == 3
    assert len({state.trials[0]["code"] for state in states}) == 3
    assert len({state.results["code"] for state in states}) == 3
    assert states[1].results["git_commit"] == states[2].results["git_commit"], "both are dirty"
