from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from pipeline.report.figures import drawable, save_figures
from pipeline.report.figures.accuracy import accuracy_figure
from pipeline.report.figures.coordinates import sweep_figure
from pipeline.report.figures.curves import curves_figure
from pipeline.report.figures.importances import importances_figure
from pipeline.report.figures.panels import panels_figure
from pipeline.report.figures.rank_bits import rank_bits_figure
from pipeline.report.figures.size import size_figure
from pipeline.report.figures.style import SCORES, ink_on, marks, score_limits
from pipeline.report.summary import METHODS

from pipeline.report.report import Extras, Protocol, Report, build_report
from pipeline.sweep.importance import Importance
from pipeline.sweep.selection import choose_winners, pareto_front
from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import TestRow, TrialRecord
from pipeline.training.refit import ZERO_SHOT
from tests.helpers.report_data import measurements

ROLES = {"champion", "compact", "coop"}


def curve(base: float, new: float) -> list[dict[str, float]]:
    """Two rounds, the second of which is the result."""
    score = harmonic_mean(base, new)
    rounds = ((base - 0.1, new + 0.1), (base, new))
    return [{"loss": 1.0, "base": b, "new": n, "score": score} for b, n in rounds]


def make_report(n_trials: int = 24, coop: bool = True) -> Report:
    """A sweep of random trials and a test in which every method has its own place."""
    random = np.random.default_rng(1)
    trials = []
    for number in range(n_trials):
        rank = "full" if number % 4 == 0 else int(random.choice([1, 2, 4]))
        bits = 16 if number % 8 == 0 else int(random.choice([1, 2, 4]))
        base, new = (float(x) for x in random.uniform(0.6, 0.8, 2))
        settings = {
            "prompt.rank": rank,
            "prompt.bits": bits,
            "prompt.n_ctx": 4,
            "train.lr": float(10 ** random.uniform(-2, 0)),
        }
        size = (512 if rank == "full" else 132 * int(rank)) * bits // 8
        trials.append(
            TrialRecord(
                number,
                settings,
                harmonic_mean(base, new),
                base,
                new,
                size,
                {},
                curve(base, new),
                1.0,
            )
        )
    winners = choose_winners(
        trials,
        0.02,
        lambda t: (t.settings["prompt.rank"], t.settings["prompt.bits"]) == ("full", 16),
    )
    if not coop:
        winners.pop("coop", None)
    rows = []
    for task, level in (("food", 0.6), ("play", 0.7)):
        rows.append(TestRow(ZERO_SHOT, task, None, level, level, level, None, None, 0, 0, 0.0))
        for place, method in enumerate(winners, start=1):
            for seed in (1, 2, 3):
                base, new = level + 0.02 * place + 0.004 * seed, level - 0.01 * place
                rows.append(
                    TestRow(
                        method,
                        task,
                        seed,
                        base,
                        new,
                        harmonic_mean(base, new),
                        None,
                        None,
                        winners[method].size_bytes,
                        10,
                        1.0,
                    )
                )
    return build_report(
        {"study": "s", "trials": [asdict(trial) for trial in trials], "pruned": [], "failed": []},
        {
            "study": "s",
            "winners": {role: asdict(trial) for role, trial in winners.items()},
            "protocol": "base_to_new",
            "measurements": measurements(rows),
        },
        Protocol("emoji", ["noto"], [], ["food"], 16, (16, 16), 2, 0.02),
        Extras(importances=[Importance("train.lr", 0.7, 0.5), Importance("prompt.bits", 0.3, 0.4)]),
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def labels_overlap(figure: Figure) -> bool:
    FigureCanvasAgg(figure).draw()
    notes = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    boxes = [super(Annotation, note).get_window_extent() for note in notes]
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_step_line_is_the_best_score_for_every_size() -> None:
    report = make_report()
    (line,) = size_figure(report).axes[0].lines
    assert line.get_drawstyle() == "steps-post"
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    assert len(x) == len(pareto_front(report.trials)) + 1
    for trial in report.trials:
        reached = y[np.searchsorted(x, trial.size_bytes, side="right") - 1]
        best = max(t.score for t in report.trials if t.size_bytes <= trial.size_bytes)
        assert reached == pytest.approx(100 * best)
    assert all(a <= b for a, b in pairwise(y))


def test_every_winner_is_marked_and_named() -> None:
    report = make_report()
    named = " ".join(texts(size_figure(report)))
    assert all(METHODS[role] in named for role in report.winners)
    assert set(report.winners) == ROLES


def test_one_trial_in_two_roles_gets_one_label() -> None:
    report = make_report()
    report.winners["compact"] = report.winners["champion"]
    assert marks(report)["champion"][1] == "champion = compact"
    assert "compact" not in marks(report)


def test_every_method_is_on_the_accuracy_figure() -> None:
    report = make_report()
    named = " ".join(texts(accuracy_figure(report)))
    assert all(METHODS[method] in named for method in (ZERO_SHOT, *ROLES))


def test_the_papers_methods_are_marked() -> None:
    report = make_report()
    number = next(t.number for t in report.trials if t not in report.winners.values())
    report = replace(report, extras=replace(report.extras, named={"qcoop": number}))
    trial, label = marks(report)["qcoop"]
    assert (trial.number, label) == (number, "QCoOp")
    assert any(text.startswith("QCoOp: ") for text in texts(size_figure(report)))


def test_every_task_has_every_method_with_its_spread() -> None:
    report = make_report()
    columns = panels_figure(report).axes
    assert [axes.texts[0].get_text() for axes in columns] == [
        "base classes", "new classes", "harmonic mean"
    ]  # fmt: skip
    for axes, measure in zip(columns, ("base", "new", "harmonic_mean"), strict=True):
        drawn = {box.get_label(): box for box in axes.containers}
        for name in report.methods:
            line, _, (bars,) = drawn[METHODS[name]]
            means = [100 * getattr(task[name], measure).mean for task in report.tasks.values()]
            assert line.get_xdata() == pytest.approx(means)
            width = bars.get_segments()[0][:, 0]
            spread = getattr(report.tasks["food"][name], measure).spread or 0.0
            assert np.ptp(width) == pytest.approx(200 * spread, abs=1e-9)
        assert set(drawn) == {METHODS[name] for name in report.methods}


def test_a_curve_ends_where_its_trial_ended() -> None:
    report = make_report(4)
    stopped = replace(report.trials[0], number=99, history=report.trials[0].history[:1])
    figure = curves_figure(replace(report, pruned=[stopped]))
    for axes, name in zip(figure.axes, ("score", "base", "new", "loss"), strict=True):
        factor = 1 if name == "loss" else 100
        ends = sorted(float(line.get_ydata()[-1]) for line in axes.lines)  # type: ignore[index]
        wanted = [factor * t.history[-1][name] for t in [*report.trials, stopped]]
        assert ends == pytest.approx(sorted(wanted))
        assert sum(line.get_marker() == "x" for line in axes.lines) == 1


def test_a_bar_that_chance_reaches_is_grey() -> None:
    axes = importances_figure(make_report()).axes[0]
    first, second = axes.patches
    assert first.get_facecolor() != second.get_facecolor()
    assert [bar.get_width() for bar in (first, second)] == [70, 30]  # type: ignore[attr-defined]


def test_what_there_are_no_numbers_for_is_not_drawn() -> None:
    report = make_report(4)
    assert drawable(report) == [
        "size", "test", "tasks", "sweep", "rank-bits", "importances", "curves"
    ]  # fmt: skip
    bare = replace(report, methods={}, panels=[], extras=Extras(), trials=[
        replace(trial, history=trial.history[:1]) for trial in report.trials
    ])  # fmt: skip
    assert drawable(bare) == ["size", "sweep", "rank-bits"]


def test_contours_have_the_harmonic_mean_they_are_labelled_with() -> None:
    axes = accuracy_figure(make_report()).axes[0]
    contours = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(contours) >= 3
    for line in contours:
        base, new = (np.asarray(values, dtype=float) for values in line.get_data())
        assert np.ptp(2 * base * new / (base + new)) < 1e-9


def test_labels_do_not_overlap() -> None:
    report = make_report()
    assert not labels_overlap(size_figure(report))
    assert not labels_overlap(accuracy_figure(report))


def test_the_sweep_figure_has_a_line_per_trial() -> None:
    report = make_report()
    axes = sweep_figure(report).axes[0]
    assert len(axes.patches) == len(report.trials)
    assert "full" in texts(axes.figure)  # type: ignore[arg-type]


def test_the_heat_map_shows_the_best_score_of_a_cell() -> None:
    report = make_report()
    shown = texts(rank_bits_figure(report))
    best = max(100 * trial.score for trial in report.trials)
    assert f"{best:.1f}" in shown
    counted = [int(text.split()[0]) for text in shown if "trial" in text]
    assert sum(counted) == len(report.trials)


@pytest.mark.parametrize("value", np.linspace(0, 1, 11))
def test_cell_text_can_be_read_on_its_colour(value: float) -> None:
    red, green, blue, _ = SCORES(float(value))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert (ink_on(SCORES, float(value)) == "white") == (luminance < 0.45)


def test_an_outlier_does_not_flatten_the_scale_and_the_best_is_inside() -> None:
    bottom, top = score_limits([0.05, 0.7, 0.71, 0.72, 0.73])
    assert bottom > 50
    assert top > 73
    bottom, top = score_limits([0.7])
    assert bottom < 70 < top


@pytest.mark.parametrize("n_trials", [1, 4])
def test_few_trials_are_drawn(n_trials: int) -> None:
    report = make_report(n_trials, coop=False)
    for draw in (size_figure, accuracy_figure, sweep_figure, rank_bits_figure, panels_figure):
        FigureCanvasAgg(draw(report)).draw()  # type: ignore[no-untyped-call]


def test_the_same_report_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (save_figures(make_report(4), tmp_path / name) for name in ("a", "b"))
    assert [picture.svg for picture in first] == [picture.svg for picture in second]
    for picture in first:
        assert (tmp_path / "a" / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        assert picture.title
        assert b"<dc:date>" not in picture.svg
