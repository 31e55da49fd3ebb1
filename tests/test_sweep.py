"""The sweep on a real local Ray with real workers."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import train_config
from ray import cloudpickle

from pipeline.cluster import cluster, cluster_resources, map_parallel
from pipeline.features import TaskFeatures
from pipeline.prompts import PromptConfig
from pipeline.run import TextSide
from pipeline.search import Choice, Range, Search, SweepConfig
from pipeline.selection import TrialRecord
from pipeline.sweep import SweepJob, run_sweep
from pipeline.train import TrainConfig
from pipeline.trial import Trial

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
TRAIN = train_config(4, rounds=2)
LONG = train_config(12, rounds=6)


def resolve(settings: dict[str, Any], broken_rank: int = 0) -> tuple[PromptConfig, TrainConfig]:
    """Turn settings into configs; `broken_rank` makes a trial raise in its worker."""
    if broken_rank and settings["prompt.rank"] == broken_rank and _in_worker():
        raise RuntimeError(f"rank {broken_rank} is broken here")
    prompt = PromptConfig(
        init="a photo of a", rank=settings["prompt.rank"], bits=settings["prompt.bits"], n_ctx=2
    )
    return prompt, TRAIN.model_copy(update={"lr": settings["train.lr"]})


def _in_worker() -> bool:
    return ray.get_runtime_context().get_actor_id() is not None


def sweep_config(**changes: Any) -> SweepConfig:
    config = SweepConfig(
        tasks=["toy"], shots=2, seeds=[1, 2], n_trials=4, sampler_seed=3,
        space={"prompt.rank": Choice([1, 2, "full"]), "prompt.bits": Choice([1, 16]),
               "train.lr": Range(low=0.01, high=1.0, log=True)},
        first=[{"prompt.rank": "full", "prompt.bits": 16, "train.lr": 0.1}],
        cpus_per_trial=1, gpus_per_trial=0, max_failures=0,
    )  # fmt: skip
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def job(text: TextSide, features: TaskFeatures) -> SweepJob:
    return SweepJob(text, [features], resolve, dict, sweep_config())


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with cluster():
        yield


class Ended:
    """Gathers how trials ended."""

    def __init__(self) -> None:
        self.finished: list[TrialRecord] = []
        self.pruned: list[TrialRecord] = []
        self.failed: dict[int, str] = {}
        self.on_finished = self.finished.append
        self.on_pruned = self.pruned.append
        self.on_failed = self.failed.__setitem__


def sweep(search: Search, job: SweepJob, folder: Path) -> tuple[list[TrialRecord], dict[int, str]]:
    ended = Ended()
    run_sweep(search, job, folder, ended)
    assert not ended.pruned
    return ended.finished, ended.failed


def test_all_trials_run_and_the_study_has_them(job: SweepJob, tmp_path: Path) -> None:
    search = Search(tmp_path / "s.db", "study", job.sweep)
    finished, failed = sweep(search, job, tmp_path)
    assert not failed
    assert len(finished) == 4
    assert search.finished() == sorted(finished, key=lambda record: record.number)
    assert finished[0].settings == job.sweep.first[0]
    assert all(len(record.history) == 2 for record in finished)
    assert all(record.score == record.history[-1]["score"] for record in finished)

    again, _ = sweep(Search(tmp_path / "s.db", "study", job.sweep), job, tmp_path)
    assert again == [], "a finished sweep has nothing to do"
    more = replace(job, sweep=sweep_config(n_trials=6))
    added, _ = sweep(Search(tmp_path / "s.db", "study", more.sweep), more, tmp_path)
    assert len(added) == 2, "more trials continue the study"


def test_worker_computes_what_the_driver_would(
    job: SweepJob, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    one = replace(job, sweep=sweep_config(n_trials=1))
    [record], _ = sweep(Search(tmp_path / "s.db", "one", one.sweep), one, tmp_path)
    trial = Trial(text, [features], *resolve(record.settings), shots=2, seeds=[1, 2])
    while not trial.done:
        trial.run_round()
    for told, computed in zip(record.history, trial.history, strict=True):
        assert told == pytest.approx(computed, rel=1e-5)
    assert record.tasks == trial.tasks
    assert record.size_bytes == trial.size_bytes


def test_trial_that_raises_is_recorded_and_the_others_go_on(job: SweepJob, tmp_path: Path) -> None:
    first = [{"prompt.rank": rank, "prompt.bits": 16, "train.lr": 0.1} for rank in (2, 1, "full")]
    broken = replace(
        job, resolve=partial(resolve, broken_rank=2), sweep=sweep_config(n_trials=3, first=first)
    )
    search = Search(tmp_path / "s.db", "broken", broken.sweep)
    finished, failed = sweep(search, broken, tmp_path)
    assert {record.settings["prompt.rank"] for record in finished} == {1, "full"}
    assert list(failed) == [0]
    assert "rank 2 is broken here" in failed[0]
    assert search.n_failed == 1
    [trial] = [t for t in search.study.trials if "error" in t.user_attrs]
    assert "in resolve" in trial.user_attrs["error"], "the traceback is kept"
    assert "\x1b" not in trial.user_attrs["error"]


def test_map_parallel_yields_every_result_with_its_index() -> None:
    results = dict(map_parallel(lambda shared, item: shared + item, [1, 2, 3], 10, 1, 0))
    assert results == {0: 11, 1: 12, 2: 13}


def test_resources_are_told() -> None:
    assert "node(s)" in cluster_resources()
    assert "CPUs" in cluster_resources()


def long_resolve(settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Train six rounds."""
    prompt, _ = resolve(settings)
    return prompt, LONG.model_copy(update={"lr": settings["train.lr"]})


def test_trials_that_fall_behind_are_stopped_and_told_as_pruned(
    job: SweepJob, tmp_path: Path
) -> None:
    rates = [0.5, 0.2, 0.1, 1e-9, 1e-9, 1e-8, 1e-8, 1e-7, 1e-7]
    first = [
        {"prompt.rank": "full", "prompt.bits": 16, "train.lr": lr * (1 + 0.01 * place)}
        for place, lr in enumerate(rates)
    ]
    config = sweep_config(
        n_trials=9, first=first, objective="score",
        space={**job.sweep.space, "train.lr": Range(low=1e-10, high=1.0, log=True)},
    )  # fmt: skip
    early = replace(job, resolve=long_resolve, sweep=config)
    search, ended = Search(tmp_path / "s.db", "early", config), Ended()
    run_sweep(search, early, tmp_path, ended)
    assert not ended.failed
    assert ended.pruned
    assert len(ended.finished) + len(ended.pruned) == 9
    assert all(len(record.history) == 6 for record in ended.finished)
    assert all(1 <= len(record.history) < 6 for record in ended.pruned)
    states = {trial.number: trial.state.name for trial in search.study.trials}
    assert {states[record.number] for record in ended.pruned} == {"PRUNED"}
    assert {states[record.number] for record in ended.finished} == {"COMPLETE"}
    assert search.pruned() == sorted(ended.pruned, key=lambda record: record.number)
    again = Search(tmp_path / "s.db", "early", config)
    assert again.n_given_out == 9
    assert again.ask(lambda _: None) is None
    worst = min(record.score for record in ended.finished)
    assert max(r.score for r in ended.finished) >= max(r.score for r in ended.pruned) >= 0
    assert worst >= 0


def killing_resolve(settings: dict[str, Any], folder: Path) -> tuple[PromptConfig, TrainConfig]:
    """Count the rounds that workers train; the first worker is killed after its third."""
    from pipeline import sweep as sweep_module

    if _in_worker() and not hasattr(sweep_module.Trial, "plain_round"):
        plain = sweep_module.Trial.run_round

        def counted(self: Trial) -> dict[str, float]:
            if len(list(folder.iterdir())) == 3 and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            result = plain(self)
            (folder / f"round-{len(self.history)}-{time.time_ns()}").touch()
            return result

        sweep_module.Trial.plain_round = plain  # type: ignore[attr-defined]  # marks the patch
        sweep_module.Trial.run_round = counted  # type: ignore[method-assign]  # this worker's own
    return long_resolve(settings)


def test_a_killed_worker_goes_on_from_its_last_round(
    job: SweepJob, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    seen = tmp_path / "rounds"
    seen.mkdir()
    killed = replace(
        job, resolve=partial(killing_resolve, folder=seen),
        sweep=sweep_config(n_trials=1, max_failures=1),
    )  # fmt: skip
    [record], failed = sweep(Search(tmp_path / "s.db", "k", killed.sweep), killed, tmp_path / "ray")
    assert not failed
    assert (seen / "killed").exists()
    rounds = sorted(int(path.name.split("-")[1]) for path in seen.glob("round-*"))
    assert rounds == [1, 2, 3, 4, 5, 6], "no round was trained twice"
    whole = Trial(text, [features], *long_resolve(record.settings), shots=2, seeds=[1, 2])
    while not whole.done:
        whole.run_round()
    for told, computed in zip(record.history, whole.history, strict=True):
        assert told == pytest.approx(computed, rel=1e-5)


def hanging_resolve(settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Hang in the first round of rank 2."""
    if _in_worker() and settings["prompt.rank"] == 2:
        from pipeline import sweep as sweep_module

        def hang_forever(_: Trial) -> dict[str, float]:
            while True:
                time.sleep(1)

        sweep_module.Trial.run_round = hang_forever  # type: ignore[method-assign]  # its own
    return resolve(settings)


def test_a_trial_that_hangs_is_failed_with_the_place_and_the_others_go_on(
    job: SweepJob, tmp_path: Path
) -> None:
    first = [{"prompt.rank": rank, "prompt.bits": 16, "train.lr": 0.1} for rank in (1, 2, "full")]
    config = sweep_config(n_trials=3, first=first, round_timeout_s=20)
    hanging = replace(job, resolve=hanging_resolve, sweep=config)
    search = Search(tmp_path / "s.db", "hang", config)
    finished, failed = sweep(search, hanging, tmp_path / "ray")
    assert {record.settings["prompt.rank"] for record in finished} == {1, "full"}
    assert list(failed) == [1]
    assert "round_timeout_s" in failed[1]
    [trial] = [t for t in search.study.trials if "error" in t.user_attrs]
    assert "hang_forever" in trial.user_attrs["error"], "the place is kept"
