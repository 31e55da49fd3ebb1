"""Results in the papers' form: every number by hand, in three languages."""

import csv
import io

import pytest

from pipeline.report.paper_results import BENCHMARK, ROWS
from pipeline.report.tables import (
    is_published_benchmark,
    protocol_tables,
    published_table,
    table_files,
    tidy_csv,
)
from pipeline.training.records import Measurement
from pipeline.training.refit import ZERO_SHOT


def measured(
    method: str,
    source: str,
    seed: int | None,
    accuracy: float,
    side: str = "all",
    shots: int = 16,
    target: str | None = None,
    domain: str = "shots",
) -> Measurement:
    """Return one accuracy of a prompt of 49 bytes and 68 parameters, trained in 3 seconds."""
    costs = (0, 0, 0.0) if method == ZERO_SHOT else (49, 68, 3.0)
    shots = 0 if method == ZERO_SHOT else shots
    return Measurement(
        method, source, shots, seed, target or source, side, domain, accuracy, *costs
    )


def base_to_new() -> list[Measurement]:
    """Two data sets; the champion gains on base in the second seed."""
    found = []
    for task, base, new in (("pets", 0.8, 0.6), ("cars", 0.6, 0.4)):
        found += [measured(ZERO_SHOT, task, None, base, "base")]
        found += [measured(ZERO_SHOT, task, None, new, "new")]
        for seed, gain in ((1, 0.0), (2, 0.1)):
            found += [measured("champion", task, seed, base + gain, "base")]
            found += [measured("champion", task, seed, new, "new")]
            found += [measured("champion", task, seed, 0.1, "new", domain="held-out")]
    return found


def cells(text: str) -> list[list[str]]:
    """Return the cells of a table in CSV."""
    return list(csv.reader(io.StringIO(text)))


def test_averages_by_both_definitions_spread_and_costs() -> None:
    averages, every = protocol_tables("base_to_new", base_to_new())
    head, zero, champion = cells(averages.csv)
    assert head[1:5] == ["base", "new", "HM of the averages", "mean of the HMs"]
    of_means = [2 * 0.7 * 0.5 / 1.2, 2 * 0.8 * 0.5 / 1.3]
    of_tasks = [
        (2 * 0.8 * 0.6 / 1.4 + 2 * 0.6 * 0.4 / 1.0) / 2,
        (2 * 0.9 * 0.6 / 1.5 + 2 * 0.7 * 0.4 / 1.1) / 2,
    ]
    assert zero == [
        "zero-shot", "70.0", "50.0", f"{100 * of_means[0]:.1f}", f"{100 * of_tasks[0]:.1f}",
        "0", "0", "0.0",
    ]  # fmt: skip

    def spread(first: float, second: float) -> str:
        return f"{50 * (first + second):.1f} ± {100 * abs(first - second) / 2**0.5:.1f}"

    assert champion == [
        "champion", spread(0.7, 0.8), "50.0 ± 0.0", spread(*of_means), spread(*of_tasks),
        "49", "68", "3.0",
    ]  # fmt: skip
    assert [row[:2] for row in every.rows] == [
        ["pets", "zero-shot"], ["pets", "champion"], ["cars", "zero-shot"], ["cars", "champion"],
    ]  # fmt: skip
    assert every.rows[1][2:4] == ["85.0 ± 7.1", "60.0 ± 0.0"]


def test_a_column_for_every_number_of_shots_and_zero_shot_in_all() -> None:
    found = [measured(ZERO_SHOT, "pets", None, 0.5), measured(ZERO_SHOT, "cars", None, 0.3)]
    for shots, accuracy in ((1, 0.6), (4, 0.8)):
        found += [measured("coop", "pets", seed, accuracy, shots=shots) for seed in (1, 2)]
        found += [measured("coop", "cars", seed, accuracy / 2, shots=shots) for seed in (1, 2)]
    averages, every = protocol_tables("few_shot", found)
    assert averages.columns[2:] == ["1 shots", "4 shots"]
    assert [row[1:] for row in averages.rows] == [
        ["zero-shot", "40.0", "40.0"],
        ["CoOp", "45.0 ± 0.0", "60.0 ± 0.0"],
    ]
    assert every.rows[1] == ["pets", "CoOp", "60.0 ± 0.0", "80.0 ± 0.0"]


def test_transfer_averages_the_others_alone() -> None:
    found = []
    for target, accuracy in (("pets", 0.9), ("cars", 0.5), ("food", 0.7)):
        found.append(measured(ZERO_SHOT, "pets", None, accuracy - 0.1, target=target))
        found.append(measured("coop", "pets", 1, accuracy, target=target))
    (table,) = protocol_tables("cross_dataset", found)
    assert table.columns == ["trained on", "method", "pets", "cars", "food", "mean of the others"]
    assert table.rows == [
        ["pets", "zero-shot", "80.0", "40.0", "60.0", "50.0"],
        ["pets", "CoOp", "90.0", "50.0", "70.0", "60.0"],
    ]


def test_domains_of_the_source_and_data_sets_of_their_own() -> None:
    found = [
        measured("coop", "imagenet", 1, 0.9),
        measured("coop", "imagenet", 1, 0.6, domain="sketch"),
        measured("coop", "imagenet", 1, 0.4, target="imagenetv2"),
    ]
    (table,) = protocol_tables("domain_generalization", found)
    assert table.columns[2:] == ["source", "sketch", "imagenetv2", "mean of the others"]
    assert table.rows == [["imagenet", "CoOp", "90.0", "60.0", "40.0", "50.0"]]


def test_the_papers_rows_are_consistent_and_stand_apart() -> None:
    for row in ROWS:
        mean = 2 * row.base * row.new / (row.base + row.new)
        if row.method.startswith("PRE"):  # published so: not that of its own averages
            assert row.harmonic_mean < mean
        else:
            assert mean == pytest.approx(row.harmonic_mean, abs=0.02)
    assert "not to be compared" in published_table(False).title
    assert "the same benchmark" in published_table(True).title
    same = (list(BENCHMARK), True, ("ViT-B-16", "openai"), 16)
    assert is_published_benchmark(*same)
    for place, other in enumerate(
        (list(BENCHMARK)[1:], False, ("ViT-B-16", "laion2b_s34b_b88k"), 8)
    ):
        assert not is_published_benchmark(*[*same[:place], other, *same[place + 1 :]])


def test_latex_is_escaped_and_markdown_is_a_table() -> None:
    (table,) = protocol_tables("cross_dataset", [measured("a_b & c", "50%", 1, 0.5)])
    assert r"50\% & a\_b \& c & 50.0 & -- \\" in table.latex
    lines = table.markdown.splitlines()
    assert lines[3] == "| --- | --- | ---: | ---: |"
    assert {line.count("|") for line in lines[2:]} == {5}


def test_every_table_has_three_files_and_measurements_one() -> None:
    found = base_to_new()
    files = table_files(protocol_tables("base_to_new", found), found)
    assert set(files) == {
        "measurements.csv",
        *(f"{name}.{kind}" for name in ("averages", "data-sets") for kind in ("md", "tex", "csv")),
    }
    rows = list(csv.DictReader(io.StringIO(tidy_csv(found))))
    assert len(rows) == len(found)
    assert [float(row["accuracy"]) for row in rows] == [one.accuracy for one in found]
