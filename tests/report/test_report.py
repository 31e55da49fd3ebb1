"""What the stage tells the pages, and what DVC compares."""

from pathlib import Path

from pipeline.params import load_params
from pipeline.report.report import metrics
from pipeline.training.refit import ZERO_SHOT
from stages.report import protocol
from tests.helpers.report_data import make_report


def test_what_is_said_of_the_data_comes_from_the_results() -> None:
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    drawn = {"shot_domains": ["twemoji", "noto"], "held_out_domains": ["emojione"]}
    found = protocol(params, {"data": {"food": {**drawn, "fewest": 16, "most": 16}}})
    assert (found.shot_styles, found.held_out_styles) == (["noto", "twemoji"], ["emojione"])
    assert (found.source, found.shots_available) == ("emoji", (16, 16))
    photos = {"shot_domains": ["all"], "held_out_domains": []}
    data = {
        "pets": {**photos, "fewest": 3, "most": 9},
        "cars": {**photos, "fewest": 5, "most": 40},
    }
    found = protocol(params, {"data": data})
    assert (found.shot_styles, found.held_out_styles) == (["all"], [])
    assert found.shots_available == (3, 40)


def test_metrics_are_flat_rounded_and_in_unit_range() -> None:
    found = metrics(make_report())
    assert found["champion"]["base"] == 0.75
    assert found["champion"]["harmonic_mean"] == 0.7233
    assert found["champion"]["size_bytes"] == 49
    assert "harmonic_mean_spread" not in found[ZERO_SHOT]
