"""A sweep's records on a real MLflow server, behind a door that fails in every way."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run

from pipeline.sweep.selection import choose_compact
from pipeline.tracking import recorder
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.recorder import Recorder, Tally, recording
from pipeline.tracking.server import serve, wait_for
from pipeline.tracking.tracker import KEY, Tracker
from pipeline.tracking.trial_run import rank_word, trial_metrics
from pipeline.training.records import TrialRecord
from tests.helpers.projects import free_port
from tests.helpers.proxy import Door, door

N_EPOCHS, PATIENCE = 50, 120.0
TASKS = ("food", "objects", "symbols")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def entrance(folder: Path) -> Iterator[Door]:
    port = free_port()
    with (
        serve(
            f"sqlite:///{folder / 'mlflow.db'}", folder / "files", port,
            options=["--workers", "1"], log=folder / "log",
        ) as process,
        door(port) as entrance,
    ):  # fmt: skip
        wait_for(f"http://127.0.0.1:{port}", process)
        yield entrance


@pytest.fixture
def tracker(entrance: Door, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(recorder, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(recorder, "LONGEST_PAUSE_S", 0.2)
    uri = f"http://127.0.0.1:{entrance.port}"
    return Tracker(TrackingConfig(uri=uri, experiment="loqua"), folder / "state")


def record(number: int, n_epochs: int = N_EPOCHS) -> TrialRecord:
    history = [
        {"loss": 1 / step, "base": 0.5 + number / 1e4, "new": 0.4, "score": 0.44 + step / 1e4}
        | {"symbols.new": 0.4 + step / 1e3}
        for step in range(1, n_epochs + 1)
    ]
    return TrialRecord(
        number=number, settings={"prompt.rank": 1, "train.lr": 0.05 + number}, score=0.4, base=0.5,
        new=0.4, size_bytes=25 + number, history=history, seconds=1.5,
        tasks={task: {"base": 0.5, "new": 0.4} for task in TASKS},
    )  # fmt: skip


def nested(tracker: Tracker, study: str) -> list[Run]:
    parent = tracker.find_run(study)
    return tracker.client.search_runs(
        [tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1_000
    )


def check(tracker: Tracker, folder: Path, study: str, records: list[TrialRecord]) -> None:
    """Read all back: a run per trial, each ended, each metric at each step once."""
    parent = tracker.client.get_run(tracker.find_run(study) or "")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["state"] == "complete"
    runs = nested(tracker, study)
    by_number = Counter(int(run.data.tags[KEY].rpartition("/")[2]) for run in runs)
    assert by_number == {one.number: 1 for one in records}
    assert {run.info.status for run in runs} == {"FINISHED"}
    with sqlite3.connect(folder / "mlflow.db") as database:
        for run in runs:
            one = records[int(run.data.tags[KEY].rpartition("/")[2])]
            asked = "select key, value, step from metrics where run_uuid = ?"
            found = database.execute(asked, (run.info.run_id,)).fetchall()
            assert sorted(found) == sorted(trial_metrics(one)), "every value once, at its step"
            told = one.settings | rank_word(one.settings)
            assert run.data.params == {key: str(value) for key, value in told.items()}


def run_sweep(tracker: Tracker, study: str, records: list[TrialRecord], lines: list[str]) -> None:
    with recording(tracker, study, {"git_commit": "abc"}, lines.append) as log:
        log.begin({"a": 1}, len(records), {}, {})
        tell(log, records)
        log.complete({"FINISHED": records}, PATIENCE)


def tell(log: Recorder, records: list[TrialRecord]) -> None:
    tally = Tally(within=0.01)
    for one in records:
        tally.add(one)
        log.trial(one)
        log.progress(tally)


def test_hundred_trials_of_fifty_epochs_are_all_there(tracker: Tracker, folder: Path) -> None:
    records, lines = [record(number) for number in range(100)], list[str]()
    run_sweep(tracker, "hundred", records, lines)
    check(tracker, folder, "hundred", records)
    assert [line for line in lines if "wait for" not in line] == [], "nothing went wrong"
    run = next(run for run in nested(tracker, "hundred") if run.data.params["train.lr"] == "7.05")
    losses = tracker.client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(n, 1 / n) for n in range(1, N_EPOCHS + 1)]
    assert losses[-1].timestamp - run.info.start_time == 1500, "over the time that it took"
    parent = tracker.metrics(tracker.find_run("hundred") or "")
    assert parent["trials"] == 100
    assert parent["size_bytes"] == parent["compact_bytes"] == 25


def test_outage_in_the_middle(tracker: Tracker, folder: Path, entrance: Door) -> None:
    records, lines = [record(number, 5) for number in range(12)], list[str]()
    with recording(tracker, "outage", {}, lines.append) as log:
        log.begin({"a": 1}, 12, {}, {})
        tell(log, records[:4])
        entrance.close()
        tell(log, records[4:8])
        wait_until(lines, 1)
        tell(log, records[8:])
        entrance.open()
        log.complete({"FINISHED": records}, PATIENCE)
    check(tracker, folder, "outage", records)
    away, back = [line for line in lines if "wait for" not in line]
    assert "is away" in away
    assert "going on" in away
    assert "is back" in back


def wait_until(lines: list[str], count: int) -> None:
    end = time.monotonic() + PATIENCE
    while len(lines) < count:
        assert time.monotonic() < end, lines
        time.sleep(0.01)


@pytest.mark.parametrize("place", range(1, 8))
def test_lost_answers_make_no_run_and_no_value_twice(
    tracker: Tracker, folder: Path, entrance: Door, place: int
) -> None:
    study, records = f"lost-{place}", [record(number, 5) for number in range(2)]
    with recording(tracker, study, {}, list[str]().append) as log:
        entrance.lost = {entrance.n_requests + place}
        for one in records:
            log.trial(one)
        log.complete({"FINISHED": records}, PATIENCE)
    assert max(entrance.lost) <= entrance.n_requests, "the request did take place"
    check(tracker, folder, study, records)


def test_server_that_stays_away_fails_the_stage_and_the_next_run_delivers(
    tracker: Tracker, folder: Path, entrance: Door
) -> None:
    records, ended = [record(number, 5) for number in range(6)], dict[str, list[TrialRecord]]()
    ended["FINISHED"] = records

    def sweep() -> None:
        with recording(tracker, "patience", {}, list[str]().append) as log:
            tell(log, records[:2])
            entrance.close()
            tell(log, records[2:])
            log.complete(ended, 0.3)

    with pytest.raises(ValueError, match=r"did not answer for 0.3 s .* of 6 trials are recorded"):
        sweep()
    with pytest.raises(ValueError, match=r"tracking.uri: http://127.0.0.1:\d+"):
        sweep()
    entrance.open()
    with recording(tracker, "patience", {}, print) as log:
        log.begin({}, 6, {}, ended)
        log.complete(ended, PATIENCE)
    check(tracker, folder, "patience", records)


def test_what_a_killed_driver_left_is_completed(tracker: Tracker, folder: Path) -> None:
    records = [record(number, 5) for number in range(4)]
    parent = tracker.open_run("killed", "killed", {})
    tracker.log_trial(parent, "killed", records[0], {})
    half = tracker.client.set_terminated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker.client, "set_terminated", lambda *_: None)
        tracker.log_trial(parent, "killed", records[1], {})  # all but its end
    assert tracker.client.set_terminated == half
    doubled = replace(records[2])
    for _ in range(2):  # as if the answer to the first request came too late for everybody
        tracker.log_trial(parent, "killed", doubled, {}, search=False)
    assert len(nested(tracker, "killed")) == 4
    with recording(tracker, "killed", {}, print) as log:
        log.begin({}, 4, {}, {"FINISHED": records})
        log.complete({"FINISHED": records}, PATIENCE)
    check(tracker, folder, "killed", records)


def test_interrupted_sweep_says_so_and_repeating_a_complete_one_adds_nothing(
    tracker: Tracker, folder: Path
) -> None:
    records = [record(number, 5) for number in range(2)]

    def sweep() -> None:
        with recording(tracker, "again", {}, print) as log:
            log.trial(records[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    parent = tracker.client.get_run(tracker.find_run("again") or "")
    assert (parent.info.status, parent.data.tags["state"]) == ("KILLED", "interrupted")
    tally = Tally(within=0.01)
    for one in records:
        tally.add(one)
    for _ in range(3):
        with recording(tracker, "again", {}, print) as log:
            log.begin({"a": 1}, 2, {"rank": "1, 2"}, {"FINISHED": records})
            log.progress(tally)
            log.complete({"FINISHED": records}, PATIENCE)
    check(tracker, folder, "again", records)
    history = tracker.client.get_metric_history(tracker.find_run("again") or "", "trials")
    assert [(m.step, m.value) for m in history] == [(2, 2.0)]


def test_refused_records_are_named_and_the_others_are_there(tracker: Tracker) -> None:
    wrong = replace(record(0, 5), settings={"not a name!?": 1})
    records, lines = [wrong, record(1, 5)], list[str]()
    with pytest.raises(ValueError, match=r"refused 1 records, first trial 0: .*not a name"):
        run_sweep(tracker, "refused", records, lines)
    assert [line for line in lines if "refuses" in line] == lines[:1]
    assert tracker.client.get_run(tracker.find_run("refused") or "").info.status == "FAILED"


def test_tally_knows_the_winners_of_all_trials() -> None:
    sizes, scores = [64, 25, 32, 128, 25, 512], [0.5, 0.3, 0.495, 0.5, 0.31, 0.52]
    records = [
        replace(record(n, 1), size_bytes=size, score=score)
        for n, (size, score) in enumerate(zip(sizes, scores, strict=True))
    ]
    for within in (0.0, 0.02, 0.03, 0.5):
        tally = Tally(within)
        for count, one in enumerate(records, start=1):
            tally.add(one)
            seen = records[:count]
            best = max(seen, key=lambda r: (r.score, -r.size_bytes))
            assert tally.best == best
            compact = choose_compact(seen, within)
            assert tally.metrics()["compact_bytes"] == compact.size_bytes
            assert tally.metrics()["compact_score"] == compact.score
