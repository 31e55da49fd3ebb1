"""Both pages say everything, and the HTML page needs nothing else."""

import json
import re
from dataclasses import asdict, replace

import pytest
from pipeline.report.summary import METHODS

from pipeline.report.charts import live_charts
from pipeline.report.examples import Example, ExampleGroup
from pipeline.report.pages import PAGES, Picture, render
from pipeline.report.report import Extras, Report, build_report, metrics
from pipeline.report.tables import protocol_tables
from pipeline.training.records import FailedTrial
from tests.helpers.report_data import (
    PROTOCOL,
    files,
    history,
    make_report,
    sample_rows,
    trial_records,
)
from tests.report.test_tables import measured


@pytest.mark.parametrize("template", PAGES)
def test_every_method_and_task_is_in_the_tables(template: str) -> None:
    page = render(template, make_report(), [Picture("size", "T", "C", b"<svg/>")])
    for label in (METHODS[row.method] for row in sample_rows()):
        assert len(re.findall(f"(</i>|\\| ){label}", page)) >= 3  # overall, two tasks
    for text in ("75.0 ± 7.1", "food", "play", "abc"):
        assert text in page


@pytest.mark.parametrize("template", PAGES)
def test_the_caveats_are_on_both_pages(template: str) -> None:
    page = render(template, make_report(), [])
    for text in (
        "Selection used validation data only",
        "one drawing per style",
        "the same noto and twemoji drawings in other poses",
        "Held-out style: emojione",
        "fixed cached views: 2",
        "averaged over tasks, computed for every seed",
        "16 shots of each class, of 16 training images. Every seed therefore has the same",
    ):
        assert text in page


def test_caveats_follow_the_protocol() -> None:
    other = replace(PROTOCOL, source="folder", held_out_styles=[], shots=4, shots_available=(3, 20))
    page = render("report.md.j2", make_report(protocol=other), [])
    assert "No style is held out" in page
    assert "4 shots of each class, of 3 to 20 training images" in page
    assert "has the same shots" not in page
    assert "drawing" not in page


LOADS = re.compile(r"""(?:src|href)\s*=\s*["'](?!data:|#)|https?://|@import|url\(|<link""")


def without_scripts(page: str) -> str:
    """Return the page as a reader without JavaScript gets it."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("live", [True, False])
def test_the_html_page_loads_nothing(live: bool) -> None:
    report, pictures = make_report(), [Picture("size", "T", "C", b"<svg/>")]
    charts = live_charts(report) if live else None
    page = render("report.html.j2", report, pictures, charts, "drawChart" if live else "")
    assert not LOADS.findall(without_scripts(page))
    assert "default-src 'none'" in page  # nor can any script
    assert "data:image/svg+xml;base64,PHN2Zy8+" in without_scripts(page)
    assert ("<script" in page) == live


def test_charts_come_as_json_that_cannot_end_its_element() -> None:
    trials, results = files()
    trials["trials"][1]["settings"]["prompt.init"] = "</script><b>"
    report = build_report(trials, results, PROTOCOL)
    pictures = [Picture("size", "T", "C", b"")]
    page = render("report.html.j2", report, pictures, live_charts(report), "js")
    (text,) = re.findall(r'<script id="charts" type="application/json">(.*?)</script>', page)
    charts = json.loads(text)
    assert charts == json.loads(json.dumps(live_charts(report)))
    assert any("</script><b>" in row["what"] for row in charts["size"]["data"]["values"])


def test_every_picture_stands_in_both_pages() -> None:
    names = ["size", "test", "tasks", "rank-bits", "importances", "sweep", "curves"]
    pictures = [Picture(name, f"title of {name}", f"caption of {name}", b"") for name in names]
    for template in PAGES:
        page = render(template, make_report(), pictures)
        assert all(page.count(f"caption of {name}") == 1 for name in names)


def test_other_protocols_have_their_own_tests_and_the_same_sweep() -> None:
    trials, results = files()
    found = [measured("zero_shot", "pets", None, 0.6)]
    found += [measured("coop", "pets", 1, 0.5, shots=shots) for shots in (1, 16)]
    results |= {"protocol": "few_shot", "measurements": [asdict(one) for one in found]}
    tables = protocol_tables("few_shot", found)
    report = build_report(trials, results, PROTOCOL, Extras(tables=tables))
    assert not report.methods
    for template in PAGES:
        page = render(template, report, [], live_charts(report), "js")
        assert "few shot" in page
        assert "zero-shot (60.0 %) wins" in page
        assert "CoOp against zero-shot: loses" in page
        assert "Accuracy on all classes, by shots, mean" in page
        assert "Champion, the best score, is trial 3" in page
        assert "harmonic mean is that of base and new accuracy" not in page
        assert "No test image was looked at" in page
    assert metrics(report)["coop"] == {"pets/shots/1": 0.5, "pets/shots/16": 0.5}


def with_trouble() -> Report:
    """A sweep of which one trial was stopped and one failed."""
    report, first = make_report(), trial_records()[0]
    stopped = replace(first, number=7, score=0.123, history=history(0.5, 0.5, 2))
    failed = FailedTrial(9, {"prompt.rank": 2}, "OSError: | <gone>")
    return replace(report, pruned=[stopped], failed=[failed])


def test_stopped_and_failed_trials_are_listed_with_their_reason() -> None:
    html, markdown = (render(template, with_trouble(), []) for template in PAGES)
    assert '<td>9</td><td class="text wide">rank 2</td>' in html
    assert "OSError: | &lt;gone&gt;" in html
    assert "| 9 | rank 2 | `OSError: \\| <gone>` |" in markdown
    assert re.search(r"\| 7 \| full rank, .* \| 2 \| 12.3 \|", markdown)
    for template in PAGES:
        assert "Failed trials" not in render(template, make_report(), [])


def test_examples_show_picture_answer_truth_and_zero_shot() -> None:
    wrong = Example(4, "sake", "milk", 0.7, "tea", b"png")
    right = Example(2, "taco", "taco", 0.9, "taco", b"png")
    group = ExampleGroup("new", 30, 5, 21, [right], [wrong])
    report = make_report(extras=Extras(examples=[group], usage=["print(1)"]))
    html, markdown = (render(template, report, []) for template in PAGES)
    for page in (html, markdown):
        assert "New classes: 21 of 30 images right, among 5 names" in page
        assert "is sake" in page
        assert "is taco" not in page
        assert "zero-shot: tea" in page
        assert "zero-shot: taco" not in page  # where it says the same
        assert "print(1)" in page
        assert "fixed before any picture was looked at" in page
    assert right.data_uri in html
    assert "![sake](figures/examples/4.png) milk (70 %)" in markdown


def test_html_is_escaped() -> None:
    trials, results = files()
    trials["tags"]["git_commit"] = "<b>"
    page = render("report.html.j2", build_report(trials, results, PROTOCOL), [])
    assert "<b>abc" not in page
    assert "&lt;b&gt;" in page


def test_provenance_is_told_once_where_sweep_and_test_agree() -> None:
    lines = make_report().provenance
    assert lines["git commit"] == "abc"
    assert lines["versions"] == "torch 2"
    assert (lines["data hash (sweep)"], lines["data hash (test)"]) == ("d1", "d2")
