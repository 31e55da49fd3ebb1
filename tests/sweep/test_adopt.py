"""Trials of an earlier code are taken over on request, with their origin, and never otherwise."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.core.provenance import Origin
from pipeline.sweep.adopt import adopt, adoptable
from pipeline.sweep.identity import Identity
from pipeline.sweep.study import Search
from pipeline.training.records import TrialRecord
from tests.helpers.sweeps import resolver
from tests.sweep.test_study import begin, config, record

OLD = Identity({"train.momentum": 0.9, "prompt.n_ctx": 2}, "features", "towers", "old code")
NEW = replace(OLD, code="new code")


def opened(path: Path, identity: Identity, n_trials: int = 12, objective: str = "pareto") -> Search:
    about = {"inputs": asdict(identity), "tags": {"code": identity.code}}
    sweep = config(n_trials=n_trials, objective=objective)
    return Search(path, f"sweep-{identity.code[:3]}", sweep, resolver(), about)


def run(study: Search, count: int, code: str) -> list[TrialRecord]:
    """Run trials of a code; every fourth one fails."""
    made = []
    for _ in range(count):
        trial = begin(study)
        if trial.number % 4 == 3:
            study.tell_failed(trial.number, "broken")
        else:
            made.append(replace(record(trial), origin=Origin("commit", code)))
            study.tell(made[-1])
    return made


def test_trials_come_with_their_origin_and_a_tag(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    old = run(opened(path, OLD), 8, "old code")
    study = opened(path, NEW)
    assert study.results().trials == [], "never silently"
    assert adoptable(study) == ["sweep-old"]
    assert adopt(study, "sweep-o") == 6
    for one in (study, opened(path, NEW)):
        results = one.results()
        assert results.trials == [replace(own, number=n) for n, own in enumerate(old)]
        assert {own.origin.code for own in results.trials} == {"old code"}
        assert results.tags == {
            "code": "new code", "adopted": "6 trials of sweep-old (code old code)"
        }  # fmt: skip
        assert (one.n_given_out, one.n_failed) == (6, 0), "those that failed run again"
    new = run(study, 4, "new code")
    origins = [own.origin.code for own in study.results().trials]
    assert origins == 6 * ["old code"] + len(new) * ["new code"]
    assert len({str(own.settings) for own in study.results().trials}) == len(origins)
    assert len(opened(path, OLD).results().trials) == 6, "the earlier study keeps them"


def test_adopting_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    run(opened(path, OLD), 4, "old code")
    study = opened(path, NEW)
    assert [adopt(study, "sweep-old") for _ in range(2)] == [3, 0]
    assert study.tags["adopted"].count("sweep-old") == 1


def test_trials_that_the_study_has_stay(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    run(opened(path, OLD), 3, "old code")
    study = opened(path, NEW)
    run(study, 2, "new code")
    assert adopt(study, "sweep-old") == 1
    assert [own.origin.code for own in study.results().trials] == [*2 * ["new code"], "old code"]


def test_trials_that_were_stopped_early_come_too(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    old = opened(path, OLD, objective="score")
    trial = begin(old)
    old.tell(record(trial, n_rounds=1))
    study = opened(path, NEW, objective="score")
    assert adopt(study, "sweep-old") == 1
    assert study.results().pruned == old.results().pruned
    assert opened(path, NEW, objective="score").results() == study.results()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": {"train.momentum": 0.8}}, ["train.momentum: got 0.8; expected 0.9", "n_ctx"]),
        ({"features": "other"}, ["features: got other; expected features"]),
        ({"towers": "other"}, ["towers: got other; expected towers"]),
    ],
)
def test_other_inputs_are_refused_by_name(
    tmp_path: Path, changed: dict[str, object], named: list[str]
) -> None:
    path = tmp_path / "study.db"
    run(opened(path, replace(OLD, **changed)), 2, "old code")
    study = opened(path, NEW)
    assert adoptable(study) == []
    with pytest.raises(ValueError, match="study sweep-old differs in more than its code") as error:
        adopt(study, "sweep-old")
    assert all(part in str(error.value) for part in named)
    assert study.results().trials == []


def test_studies_that_cannot_be_compared_or_found_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    run(Search(path, "sweep-before", config(), resolver()), 1, "code")
    study = opened(path, NEW)
    with pytest.raises(ValueError, match=r"sweep-before.*\n.*its inputs were not recorded"):
        adopt(study, "sweep-before")
    for name in ("nothing", study.name):
        with pytest.raises(ValueError, match=rf"got '{name}'; expected one of \['sweep-before'\]"):
            adopt(study, name)
