"""The study remembers: nothing is tried twice, nothing is lost."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import TrialState
from pydantic import ValidationError

from pipeline.sweep import sampler
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.job import TrialSpec
from pipeline.sweep.selection import choose_champion
from pipeline.sweep.study import Search
from pipeline.training.records import FailedTrial, TrialRecord
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import search

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


DISCRETE = {"prompt.rank": ["full", 1, 3], "prompt.bits": [1, 2]}
"""Rank 3 is not feasible with two tokens."""


def record(trial: TrialSpec, n_rounds: int = 2, score: float | None = None) -> TrialRecord:
    """Return what a trial measures in so many of its two rounds; a function of its settings."""
    rank, bits = trial.settings["prompt.rank"], trial.settings["prompt.bits"]
    lr = trial.settings.get("train.lr", 0.1)
    own = 0.3 + 0.1 * (rank == 1) + 0.01 * bits + lr / 10 if score is None else score
    history = [{"loss": 1.0, "base": own, "new": own, "score": own / n} for n in range(2, 0, -1)]
    size, tasks = int(bits) * 10, {"toy": {"base": own, "new": own}}
    last = history[n_rounds - 1]["score"]
    return TrialRecord(
        trial.number, trial.settings, last, own, own, size, tasks, history[:n_rounds], 0.5, ORIGIN
    )


def begin(study: Search) -> TrialSpec:
    trial = study.ask()
    assert trial is not None
    return trial


def finish(study: Search, score: float | None = None) -> None:
    """Begin a trial and finish both of its rounds."""
    trial = begin(study)
    for n_rounds in (1, 2):
        study.note(record(trial, n_rounds, score))
    study.tell(record(trial, 2, score))


def run(study: Search, count: int) -> list[TrialSpec]:
    """Begin and finish up to `count` trials."""
    done: list[TrialSpec] = []
    while len(done) < count and (trial := study.ask()):
        study.tell(record(trial))
        done.append(trial)
    return done


def finished(study: Search) -> list[TrialRecord]:
    return study.results().trials


def test_first_comes_first_and_the_count_is_kept(tmp_path: Path) -> None:
    study = search(tmp_path / "state" / "study.db", "toy", config())
    done = run(study, 100)
    assert len(done) == study.n_given_out == 5
    assert done[0].settings == FIRST
    assert study.ask() is None
    assert finished(study) == [record(trial) for trial in done]
    assert all(0.01 <= trial.settings["train.lr"] <= 1.0 for trial in done)


def test_a_study_resumes_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    whole = run(search(tmp_path / "whole.db", "toy", config(n_trials=7)), 100)
    done = run(search(path, "toy", config()), 3)
    resumed = search(path, "toy", config())
    assert finished(resumed) == [record(trial) for trial in done]
    assert len(run(resumed, 100)) == 2
    larger = search(path, "toy", config(n_trials=7))
    assert run(larger, 100) == whole[5:]
    assert run(search(path, "toy", config(n_trials=7)), 100) == []
    assert finished(larger) == [record(trial) for trial in whole]


def test_trials_that_were_running_run_again_under_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    crashed = search(path, "toy", config())
    done = run(crashed, 1)
    lost = [crashed.ask(), crashed.ask()]
    resumed = search(path, "toy", config())
    assert resumed.n_given_out == 1
    assert run(resumed, 2) == lost
    assert len(run(resumed, 100)) == 2
    assert [r.number for r in finished(resumed)] == [0, 1, 2, 3, 4]
    assert finished(resumed)[0] == record(done[0])
    assert {trial.state for trial in resumed.study.trials} == {TrialState.COMPLETE}


def test_infeasible_and_repeated_settings_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "MAX_REJECTED", 40)
    first = [{"prompt.rank": 3, "prompt.bits": 1}, *2 * [{"prompt.rank": 1, "prompt.bits": 1}]]
    study = search(tmp_path / "s.db", "toy", config(space=DISCRETE, first=first, n_trials=20))
    asked = []
    while trial := study.ask():
        asked.append(tuple(trial.settings.items()))
        if len(asked) % 2:  # half of them finish, half of them stay running
            study.tell(record(trial))
    assert study.exhausted
    assert len(asked) == len(set(asked)) == study.n_given_out == 4
    assert not any(("prompt.rank", 3) in settings for settings in asked)
    assert tuple(first[1].items()) in asked[:2]
    assert len(study.study.trials) == 4, "what is passed over is not written"


def test_failed_trials_count_and_are_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = search(path, "toy", config())
    trial = begin(study)
    study.tell_failed(trial.number, "Traceback\nOSError: the worker died\n")
    failed = [FailedTrial(trial.number, FIRST, "OSError: the worker died")]
    assert study.results().failed == failed
    assert (study.n_failed, study.n_given_out) == (1, 1)
    resumed = search(path, "toy", config())
    later = run(resumed, 100)
    assert len(later) == 4
    assert trial.settings not in [own.settings for own in later]
    assert resumed.results().failed == failed
    assert len(finished(resumed)) == 4


def test_the_seed_fixes_the_proposals(tmp_path: Path) -> None:
    first, same, other = (
        run(search(tmp_path / f"{i}.db", "toy", config(n_trials=20, sampler_seed=seed)), count)
        for i, (seed, count) in enumerate(((1, 20), (1, 20), (2, 3)))
    )
    assert first == same
    assert first[:3] != other


def test_studies_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    run(search(path, "one", config()), 2)
    other = search(path, "two", config())
    assert (finished(other), other.n_given_out) == ([], 0)


def test_a_file_that_is_no_study_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match=r"study\.db: not a usable study database"):
        search(path, "toy", config())
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("create table studies (x int)")
    with pytest.raises(ValueError, match=r"other\.db: not a usable study database"):
        search(other, "toy", config())


@pytest.mark.parametrize(
    "axis", [[], {"low": 1, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1}, 3]
)
def test_axes_without_values_are_refused(axis: Any) -> None:
    with pytest.raises(ValidationError):
        config(space={"train.lr": axis})


def test_a_trial_costs_as_many_statements_however_many_there_were(tmp_path: Path) -> None:
    study = search(tmp_path / "study.db", "toy", config(n_trials=40))
    counts, commits, statements = [], [], []
    engine = study.storage.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a))
    sqlalchemy.event.listen(engine, "commit", commits.append)
    for n_trials in range(1, 41):
        statements.clear()
        commits.clear()
        trial = begin(study)
        assert len(commits) == 1, "a trial begins in one transaction"
        study.tell(record(trial))
        counts.append(len(statements))
        assert (study.n_given_out, study.n_finished) == (n_trials, n_trials)
    assert len(set(counts[1:])) == 1, "the first one finds no distributions yet"


def test_memory_and_storage_agree(tmp_path: Path) -> None:
    path, sweep = tmp_path / "study.db", config(n_trials=12, objective="score")
    study = search(path, "toy", sweep)
    for turn in range(12):
        trial = begin(study)
        if turn % 3 == 0:
            study.tell(record(trial))
        elif turn % 3 == 1:
            assert study.tell(record(trial, n_rounds=1)) == TrialState.PRUNED
        elif turn == 11:
            assert study.tell(record(trial, score=float("nan"))) == TrialState.FAIL
        else:
            study.tell_failed(trial.number, "no")
    resumed = search(path, "toy", sweep)
    assert resumed.results() == study.results()
    for one in (study, resumed):
        assert (one.n_finished, one.n_pruned, one.n_failed) == (4, 4, 4)
        assert one.best == choose_champion(finished(one))
        assert one.ask() is None
    states = [trial.state.name for trial in study.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL"] * 4
    assert study.study.trials[1].intermediate_values == {1: study.results().pruned[0].score}


def test_records_survive_the_storage_to_the_last_bit(tmp_path: Path) -> None:
    study = search(tmp_path / "study.db", "toy", config())
    trial = begin(study)
    told = replace(record(trial), score=0.1 + 0.2, seconds=1 / 3)
    study.tell(told)
    assert finished(search(tmp_path / "study.db", "toy", config())) == [told]


def test_running_trials_show_their_last_round(tmp_path: Path) -> None:
    study = search(tmp_path / "study.db", "toy", config())
    one, other = study.ask(), study.ask()
    assert one is not None
    assert other is not None
    study.note(record(other, n_rounds=1))
    assert study.live() == [record(other, n_rounds=1)]
    study.tell(record(other))
    study.tell_failed(one.number, "no")
    assert study.live() == []
