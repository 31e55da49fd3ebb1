"""Charts of the sweep: what its trials scored on validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log10
from typing import Any

import altair as alt

from pipeline.report.charts.style import (
    CLEAR,
    DARK,
    GREY,
    WIDTH,
    Chart,
    Row,
    between,
    chart,
    looks,
    nice_levels,
    score_limits,
    tips,
)
from pipeline.report.methods import Look
from pipeline.report.report import Report
from pipeline.report.words import count, describe
from pipeline.training.records import TrialRecord

OTHER, STOPPED = Look("other trial", GREY), Look("stopped early", "#d9c9a5")
MOST_CURVES = 200
"""Trials whose curves are drawn: those with a role, then the best."""
MEASURES = {"score": "score (%)", "base": "base (%)", "new": "new (%)", "loss": "training loss"}
TIPS = {"score": "score (%)", "base": "base (%)", "new": "new (%)"}
AXES = {"prompt.n_ctx": "context tokens", "train.lr": "learning rate"}


def trial_row(trial: TrialRecord, role: Look = OTHER) -> Row:
    """Return what charts show of a trial; accuracies are in percent."""
    percents = {name: round(100 * getattr(trial, name), 2) for name in ("score", "base", "new")}
    settings = describe(trial.settings)
    return {"trial": trial.number, "role": role.label, "settings": settings, **percents}


def size_chart(report: Report) -> Chart:
    """Score against bytes: trials, Pareto front, winners and the papers' methods."""
    low, high = score_limits([trial.score for trial in report.trials])
    below = Look(f"other trial, below {low:.0f} %", GREY, "triangle-down")
    front = {trial.number for trial in report.front}
    rows, drawn, known = [], [], {}
    for trial in sorted(report.trials, key=lambda t: -t.score):
        role = report.roles.get(trial.number, OTHER)
        row = {**trial_row(trial, role), "front": trial.number in front, "bytes": trial.size_bytes}
        rows.append(row | {key.rpartition(".")[2]: v for key, v in trial.settings.items()})
        mark = f"{role.label}: {row['score']:.1f} %, {trial.size_bytes:,} B"
        if role == OTHER:
            role = below if row["score"] < low else OTHER
            mark = role.label
        known[mark] = role
        drawn.append(
            row | {"mark": mark, "shown": max(low, row["score"]), "named": role.label != mark}
        )
    steps = sorted((row for row in drawn if row["front"]), key=lambda row: row["bytes"])
    end = {**steps[-1], "bytes": max(row["bytes"] for row in rows)}
    x = alt.X("bytes:Q", title="stored size of one prompt (bytes, log scale)")
    x = x.scale(type="log", base=2, nice=False, padding=20).axis(format=",d", tickCount=6)
    y = alt.Y("shown:Q", title="validation harmonic mean (%)", scale=between(low, high))
    size = alt.condition(alt.datum.named, alt.value(160), alt.value(45))
    tip = tips("role", "trial", "settings", "bytes", **TIPS)
    line = chart([*steps, end], x=x, y=y).mark_line(interpolate="step-after", color=DARK)
    points = chart(drawn[::-1], x=x, y=y, size=size, tooltip=tip, **looks("mark", known))
    return Chart(
        "size",
        "Score against stored size",
        "Each point is a trial of the sweep, scored on validation images. The line is the best "
        "score that a given number of bytes can buy: the Pareto front. Marked: the winners, and "
        "the best trial of each of the papers' methods that the sweep tried.",
        rows,
        (line + points.mark_point()).properties(width=WIDTH, height=340),
    )


def score_colour(low: float, high: float) -> alt.Color:
    """Return the colours of scores: dark is good."""
    scale = alt.Scale(scheme="viridis", reverse=True, domain=[low, high], clamp=True)
    return alt.Color("score:Q", scale=scale, legend=None)


def rank_bits_chart(report: Report) -> Chart:
    """The best score of each rank and number of bits, and how many trials had them."""
    low, high = score_limits([trial.score for trial in report.trials])
    cells: dict[tuple[str, str], list[float]] = {}
    for trial in report.trials:
        rank, bits = (
            str(trial.settings.get(f"prompt.{axis}", "fixed")) for axis in ("rank", "bits")
        )
        cells.setdefault((rank, bits), []).append(round(100 * trial.score, 2))
    rows: list[Row] = [
        {"rank": rank, "bits": bits, "score": max(scores), "trials": len(scores)}
        for (rank, bits), scores in sorted(cells.items())
    ]
    ranks, steps = (sorted({key[i] for key in cells}, key=lambda v: (len(v), v)) for i in (0, 1))
    x = alt.X("bits:N", sort=steps, title="bits per stored number (16: not quantized)")
    y = alt.Y("rank:N", sort=ranks, title="rank of the prompt").axis(domain=False, ticks=False)
    drawn = [row | {"count": count(row["trials"], "trial")} for row in rows]
    cell = chart(drawn, x=x.axis(labelAngle=0, domain=False, ticks=False), y=y)
    ink = alt.condition(alt.datum.score > (low + high) / 2, alt.value("white"), alt.value(DARK))
    tip = tips("rank", "bits", "trials", score="best score (%)")
    drawing = alt.layer(
        cell.mark_rect(stroke="white", strokeWidth=3).encode(
            color=score_colour(low, high), tooltip=tip
        ),
        cell.mark_text(dy=-6, fontSize=15).encode(
            text=alt.Text("score:Q", format=".1f"), color=ink
        ),
        cell.mark_text(dy=13, fontSize=10).encode(text="count:N", color=ink),
    )
    return Chart(
        "rank-bits",
        "Best score (%) by rank and bits",
        "Best validation score of each combination, and its number of trials: a cell with more "
        "trials had more chances. Combinations without a cell were not tried.",
        rows,
        drawing.properties(width=110 * max(len(steps), 3), height=62 * len(ranks)),
    )


def importances_chart(report: Report) -> Chart:
    """A bar per axis, and on it the mark that shuffled scores reach."""
    rows = [
        {"axis": o.axis, "importance": round(100 * o.share, 1), "chance": round(100 * o.chance, 1)}
        for o in report.importances
    ]
    tip = tips("axis", importance="importance (%)", chance="chance gives up to (%)")
    bar = chart(rows, y=alt.Y("axis:N", sort=None, title=None), tooltip=tip)
    clear = alt.condition("datum.importance > datum.chance", alt.value(CLEAR), alt.value(GREY))
    x = alt.X("importance:Q", title="share of the importance (%)")
    drawing = alt.layer(
        bar.mark_bar(height=20).encode(x=x, color=clear),
        bar.mark_tick(color="black", thickness=3, height=32).encode(x="chance:Q"),
    )
    return Chart(
        "importances",
        "Which setting separates the best quarter from the rest",
        "PED-ANOVA (Optuna's evaluator, on the sweep's records). The black mark is what 95 of 100 "
        "shufflings of the scores stay below: a grey bar, which does not pass it, is no evidence.",
        rows,
        drawing.properties(width=WIDTH, height=42 * len(rows)),
    )


def curved(report: Report) -> list[TrialRecord]:
    """Return the trials whose curves are drawn, also those that were stopped early."""
    trials = [*report.trials, *report.swept.pruned]
    best = sorted(trials, key=lambda t: (t.number not in report.roles, -t.score, t.number))
    return sorted(best[:MOST_CURVES], key=lambda t: t.number)


def curves_chart(report: Report) -> Chart:
    """What every trial measured after each of its rounds; stopped ones end in a cross."""
    stopped, known = {trial.number for trial in report.swept.pruned}, {}
    rows: list[Row] = []
    ends: list[Row] = []
    for trial in curved(report):
        role = report.roles.get(trial.number, STOPPED if trial.number in stopped else OTHER)
        known[role.label] = role
        for place, measured in enumerate(trial.history, start=1):
            percents = {name: round(100 * measured[name], 2) for name in TIPS}
            loss = round(measured["loss"], 4)
            rows.append({**trial_row(trial, role), "round": place, "loss": loss, **percents})
        ends += rows[-1:] if trial.number in stopped else []
    last = max(row["round"] for row in rows)
    ticks = list(range(1, last + 1, -(-last // 12)))
    special = f"indexof({[OTHER.label, STOPPED.label]}, datum.role) < 0"
    channels = {
        "x": alt.X("round:Q").axis(values=ticks, format="d"),
        "y": alt.Y("value:Q", title=None).scale(zero=False),
        "detail": alt.Detail("trial:N"),
        "color": looks("role", known)["color"],
    }
    line, tip = (
        alt.Chart().encode(**channels),
        tips("role", "trial", "settings", "round", "loss", **TIPS),
    )
    drawing = alt.layer(
        line.transform_filter(f"!({special})").mark_line(strokeWidth=1),
        line.transform_filter(special).mark_line(strokeWidth=2.5),
        line.mark_point(size=90, opacity=0).encode(tooltip=tip),
        *([line.transform_filter("datum.end").mark_text(text="×", fontSize=16)] if ends else []),
        data=alt.InlineData(values=[row | {"end": row in ends} for row in rows]),
    )
    header = alt.Header(title=None, labelExpr=f"{MEASURES}[datum.value]")
    panels = drawing.properties(width=WIDTH // 2 - 30, height=170).facet(
        alt.Facet("measure:N", sort=list(MEASURES), header=header), columns=2
    )
    panels.transform = [alt.FoldTransform(list(MEASURES), **{"as": ["measure", "value"]})]
    return Chart(
        "curves",
        "Learning curves on validation images",
        "Base and pseudo-new classes, mean over tasks and seeds, measured on the prompt as it is "
        "stored after each round; the score is the harmonic mean. Trials that were stopped early "
        "end in a cross.",
        rows,
        panels.resolve_scale(y="independent"),
    )


def coordinates_chart(report: Report) -> Chart:
    """One line per trial over its settings and its score."""
    trials = sorted(report.trials, key=lambda trial: trial.score)
    low, high = score_limits([trial.score for trial in trials])
    heights: dict[str, list[float]] = {}
    ticks: list[Row] = []
    for name in trials[0].settings:
        if all(name in trial.settings for trial in trials):
            title = AXES.get(name, name.rpartition(".")[2])
            heights[title], labels = axis_heights([trial.settings[name] for trial in trials])
            ticks += [{"axis": title, "height": h, "label": text} for h, text in labels.items()]
    heights["score (%)"] = [max(0.0, (100 * t.score - low) / (high - low)) for t in trials]
    for level in nice_levels(low, high):
        height = (level - low) / (high - low)
        ticks.append({"axis": "score (%)", "height": height, "label": f"{level:g}"})
    champion = report.winners["champion"].number
    rows = [
        {**trial_row(t), "axis": axis, "height": round(own[i], 4), "champion": t.number == champion}
        for i, t in enumerate(trials)
        for axis, own in heights.items()
    ]
    x = alt.X("axis:N", sort=list(heights), title=None)
    x = x.axis(labelAngle=0, domain=False, ticks=False, grid=True, gridColor="#888888")
    y = alt.Y("height:Q", axis=None, scale=between(-0.06, 1.06))
    thick = alt.condition(alt.datum.champion, alt.value(5), alt.value(1.4))
    line = chart(rows, x=x, y=y, detail="trial:N", color=score_colour(low, high))
    line = line.encode(strokeWidth=thick, tooltip=tips("trial", "settings", **TIPS))
    label = chart(ticks, x=x, y=y, text="label:N")
    drawing = alt.layer(
        line.mark_line(interpolate="monotone"),
        label.mark_text(align="right", dx=-5, stroke="white", strokeWidth=4),
        label.mark_text(align="right", dx=-5),
    )
    return Chart(
        "sweep",
        f"The sweep's {len(trials)} trials: which settings lead to which score",
        "Each line is a trial: its settings and, at the right, its validation score. Lines are set "
        "slightly apart where values coincide. The thick line is the champion.",
        rows,
        drawing.properties(width=WIDTH, height=320),
    )


def axis_heights(values: Sequence[Any]) -> tuple[list[float], dict[float, str]]:
    """Return heights in [0, 1] of trials, and an axis's labels by height.

    Many positive fractions are on a log scale. Other values are evenly spaced, and trials that
    share one are set slightly apart, in their order.
    """
    levels = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(levels) > 6 and all(isinstance(value, float) and value > 0 for value in levels):
        low, room = log10(levels[0]), log10(levels[-1] / levels[0])
        nice = {
            (e + log10(m) - low) / room: f"{m * 10.0**e:g}" for e in range(-8, 4) for m in (1, 2, 5)
        }
        within = {height: text for height, text in nice.items() if -0.02 <= height <= 1.02}
        return [(log10(value) - low) / room for value in values], within
    place = {v: i / (len(levels) - 1) if len(levels) > 1 else 0.5 for i, v in enumerate(levels)}
    sizes, seen, heights = Counter(values), Counter[Any](), []
    for value in values:
        shift = seen[value] - (sizes[value] - 1) / 2
        heights.append(place[value] + shift * min(0.012, 0.14 / sizes[value]))
        seen[value] += 1
    return heights, {height: str(value) for value, height in place.items()}
