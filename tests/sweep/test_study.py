"""The study remembers: nothing is tried twice, nothing is lost."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import ValidationError

from pipeline.sweep import study
from pipeline.sweep.selection import choose_champion
from pipeline.sweep.study import Search, SweepConfig
from pipeline.training.records import FailedTrial, TrialRecord

FIRST = {"prompt.rank": "full", "prompt.bits": 16, "train.lr": 0.1}


def config(**changed: Any) -> SweepConfig:
    """Return a small sweep."""
    plain = {
        "tasks": ["toy"],
        "shots": 2,
        "seeds": [1],
        "n_trials": 5,
        "sampler_seed": 1,
        "space": {
            "prompt.rank": ["full", 1, 2],
            "prompt.bits": [1, 16],
            "train.lr": {"low": 0.01, "high": 1.0, "log": True},
        },
        "first": [FIRST],
        "cpus_per_trial": 1,
        "gpus_per_trial": 0,
        "max_failures": 0,
    }
    return SweepConfig(**{**plain, **changed})


DISCRETE = {"prompt.rank": ["full", 1], "prompt.bits": [1, 2]}


def accept(_: dict[str, Any]) -> None:
    """Find everything feasible."""


def record(number: int, settings: dict[str, Any]) -> TrialRecord:
    """Return what a trial with these settings measures."""
    score = 0.5 + 0.1 * (settings["prompt.rank"] == 1) + 0.01 * number
    tasks = {"toy": {"base": score, "new": score}}
    history = [{"loss": 1.0, "base": score, "new": score, "score": score}]
    size = int(settings["prompt.bits"]) * 10
    return TrialRecord(number, settings, score, score, score, size, tasks, history, 0.5)


def run(search: Search, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Ask for and finish up to `count` trials."""
    done = []
    for _ in range(count):
        asked = search.ask(accept)
        if asked is None:
            break
        search.tell(asked[0], record(*asked))
        done.append(asked)
    return done


def test_first_comes_first_and_the_count_is_kept(tmp_path: Path) -> None:
    search = Search(tmp_path / "state" / "study.db", "toy", config())
    done = run(search, 100)
    assert len(done) == search.n_given_out == 5
    assert done[0][1] == FIRST
    assert search.ask(accept) is None
    assert search.finished() == [record(*trial) for trial in done]
    assert all(0.01 <= settings["train.lr"] <= 1.0 for _, settings in done)


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    done = run(Search(path, "toy", config()), 3)
    resumed = Search(path, "toy", config())
    assert resumed.finished() == [record(*trial) for trial in done]
    assert len(run(resumed, 100)) == 2
    larger = Search(path, "toy", config(n_trials=7))
    assert len(run(larger, 100)) == 2
    assert run(Search(path, "toy", config(n_trials=7)), 100) == []
    assert len({str(t.settings) for t in larger.finished()}) == 7


def test_trials_that_were_running_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    crashed = Search(path, "toy", config())
    done = run(crashed, 1)
    lost = [crashed.ask(accept) for _ in range(2)]
    resumed = Search(path, "toy", config())
    assert resumed.n_given_out == 1
    again = run(resumed, 2)
    assert [settings for _, settings in again] == [trial[1] for trial in lost if trial]
    assert len(run(resumed, 100)) == 2
    assert len(resumed.finished()) == 5
    assert resumed.finished()[0] == record(*done[0])
    assert resumed.n_failed == 0


def test_configurations_to_begin_with_survive_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    first = [{**FIRST, "train.lr": lr} for lr in (0.1, 0.2, 0.3)]
    run(Search(path, "toy", config(first=first)), 1)
    assert [s for _, s in run(Search(path, "toy", config(first=first)), 2)] == first[1:]


def test_duplicates_and_infeasible_points_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "MAX_REJECTED", 12)
    search = Search(
        tmp_path / "study.db", "toy", config(space=DISCRETE, first=[], n_trials=20, sampler_seed=3)
    )
    asked = []
    while trial := search.ask(lambda s: "no" if s["prompt.bits"] == 2 else None):
        asked.append(tuple(trial[1].items()))
        if len(asked) % 2:  # half of them finish, half of them stay running
            search.tell(trial[0], record(*trial))
    assert len(asked) == len(set(asked)) == search.n_given_out == 2
    assert not any(("prompt.bits", 2) in settings for settings in asked)
    assert search.n_failed == 0


def test_failed_trials_count_and_are_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    search = Search(path, "toy", config())
    number, settings = search.ask(accept) or (0, {})
    search.tell_failed(number, "Traceback\nOSError: the worker died\n")
    assert search.failed() == [FailedTrial(number, FIRST, "OSError: the worker died")]
    assert (search.n_failed, search.n_given_out) == (1, 1)
    resumed = Search(path, "toy", config())
    later = run(resumed, 100)
    assert len(later) == 4
    assert settings not in [own for _, own in later]
    assert (resumed.n_failed, len(resumed.finished())) == (1, 4)


def test_the_seed_fixes_the_proposals(tmp_path: Path) -> None:
    first, same, other = (  # the sampler models what it has seen from the ninth trial on
        run(Search(tmp_path / f"{i}.db", "toy", config(n_trials=10, sampler_seed=seed)), count)
        for i, (seed, count) in enumerate(((1, 10), (1, 10), (2, 3)))
    )
    assert first == same
    assert first[:3] != other


def test_studies_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    run(Search(path, "one", config()), 2)
    other = Search(path, "two", config())
    assert (other.finished(), other.n_given_out) == ([], 0)


def test_a_file_that_is_no_study_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match=r"study\.db: not a usable study database"):
        Search(path, "toy", config())
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("create table studies (x int)")
    with pytest.raises(ValueError, match=r"other\.db: not a usable study database"):
        Search(other, "toy", config())


@pytest.mark.parametrize(
    "axis", [[], {"low": 1, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1}, 3]
)
def test_axes_without_values_are_refused(axis: Any) -> None:
    with pytest.raises(ValidationError):
        config(space={"train.lr": axis})


def test_a_trial_costs_as_many_statements_however_many_there_were(tmp_path: Path) -> None:
    search = Search(tmp_path / "study.db", "toy", config(n_trials=40))
    counts, statements = [], []
    sqlalchemy.event.listen(
        search._storage.engine, "before_cursor_execute", lambda *a: statements.append(a)
    )
    for _ in range(40):
        statements.clear()
        assert len(run(search, 1)) == 1
        counts.append(len(statements))
        assert (search.n_given_out, search.n_finished) == (len(counts), len(counts))
    assert len(set(counts[2:])) == 1, "the first was queued, and the next finds no distribution"


def test_what_is_counted_is_what_is_stored(tmp_path: Path) -> None:
    path, sweep = tmp_path / "study.db", config(n_trials=12, objective="score")
    search = Search(path, "toy", sweep)
    for turn in range(12):
        number, settings = search.ask(accept) or (0, {})
        if turn % 3 == 0:
            search.tell(number, record(number, settings))
        elif turn % 3 == 1:
            search.tell_pruned(number, record(number, settings))
        elif turn == 11:
            search.tell(number, replace(record(number, settings), score=float("nan")))
        else:
            search.tell_failed(number, "no")
    resumed = Search(path, "toy", sweep)
    for one in (search, resumed):
        assert (one.n_finished, one.n_pruned, one.n_failed) == (4, 4, 4)
        assert one.best == choose_champion(one.finished())
        assert one.ask(accept) is None
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL"] * 4
    assert search.study.trials[1].intermediate_values == {1: search.pruned()[0].score}
