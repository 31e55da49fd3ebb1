"""The saved view names what a sweep logs, in the form that MLflow's UI reads."""

import json
from pathlib import Path

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trial_run import rank_word
from pipeline.tracking.views import (
    NOTE,
    TAG,
    describe_sweep,
    newest_links,
    trials_view,
    view_path,
)

AXES = {"prompt.rank": "full, 1", "train.lr": "0.1 to 1"}


def test_the_view_is_of_one_sweeps_trials_the_best_first() -> None:
    state = trials_view("abc", list(AXES))
    assert "tags.`mlflow.parentRunId` = 'abc'" in state["searchFilter"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`score`", False)
    assert {"params.`prompt.rank`", "metrics.`size_bytes`"} <= set(state["selectedColumns"])
    parallel = state["compareRunCharts"][0]
    assert (parallel["type"], parallel["selectedParams"]) == ("PARALLEL", ["rank", "train.lr"])
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert trials_view("abc", list(AXES)) == state
    assert trials_view("other", list(AXES)) != state


def test_the_rank_is_logged_as_a_word_that_charts_can_place() -> None:
    ranks = [rank_word({"prompt.rank": rank}) for rank in ("full", 1, 4)]
    assert ranks == [{"rank": "full"}, {"rank": "rank 1"}, {"rank": "rank 4"}]
    assert rank_word({"train.lr": 0.1}) == {}


def test_experiment_and_sweep_are_described_and_the_view_is_found_by_its_link(
    tmp_path: Path,
) -> None:
    tracker = Tracker(TrackingConfig(uri=None, experiment="toy"), tmp_path)
    parent = tracker.open_run("sweep-1", "sweep-1", {})
    describe_sweep(tracker, parent, "sweep-1", AXES, 5)
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    view = json.loads(tags[TAG + "sweep-1"])
    assert view["name"] == "Trials of sweep-1"
    assert json.loads(view["state"]) == trials_view(parent, list(AXES))
    assert view_path(tracker.experiment_id, "sweep-1") in tags[NOTE]
    assert "| train.lr | 0.1 to 1 |" in tracker.client.get_run(parent).data.tags[NOTE]
    found = tracker.client.search_runs([tracker.experiment_id], view_filter(view))
    assert found == []  # the sweep itself is none of its trials


def view_filter(view: dict[str, str]) -> str:
    return str(json.loads(view["state"])["searchFilter"])


def test_links_lead_to_the_newest_sweep_and_there_are_none_before_it(tmp_path: Path) -> None:
    config = TrackingConfig(uri=None, experiment="toy")
    tracker = Tracker(config, tmp_path)
    assert newest_links(tracker.uri, config, "http://here:1", "my model") == {}
    for study, seconds_ago in (("new", 1.0), ("old", 100.0)):
        run_id = tracker.open_run(study, study, {"state": "complete"}, seconds_ago=seconds_ago)
        tracker.open_run(f"{study}/0", "0", {}, parent=run_id)
    found = newest_links(tracker.uri, config, "http://here:1/", "my model")
    place = f"http://here:1/{view_path(tracker.experiment_id, 'new')}"
    assert list(found.values())[0] == place
    assert list(found.values())[1].startswith(place)
    assert list(found.values())[2] == "http://here:1/#/models/my%20model"
