"""What the sweep leaves behind, without running one."""

from pathlib import Path

import pytest

from pipeline.core import paths
from pipeline.core.files import load_json
from pipeline.params import load_params
from pipeline.training.records import TrialRecord
from stages.sweep import Study, save_results

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def record(number: int, score: float, size: int) -> TrialRecord:
    """Return a finished trial of one task."""
    tasks = {"toy": {"base": score, "new": score}}
    return TrialRecord(number, {"train.lr": 0.1}, score, score, score, size, tasks, [], 1.0)


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_the_pareto_set_is_among_the_winners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    monkeypatch.setattr(paths, "WINNERS", tmp_path / "winners.json")
    monkeypatch.setattr(paths, "TRIALS", tmp_path / "trials.json")
    params = load_params(SHIPPED)
    sweep = params.sweep.model_copy(update={"objective": objective})
    records = [
        record(0, 0.6, 100),
        record(1, 0.6, 100),  # ties with 0
        record(2, 0.5, 200),  # worse and larger
        record(3, 0.4, 10),
        record(4, 0.4, 20),  # larger than 3 and no better
        record(5, 0.7, 300),
    ]
    save_results(params.model_copy(update={"sweep": sweep}), Study("s", {}, {}), records)
    found = load_json(paths.WINNERS)
    assert [TrialRecord(**own) for own in found["pareto"]] == [records[3], records[0], records[5]]
    assert found["winners"]["champion"] == found["pareto"][-1]
