"""Charts of the sweep: what its trials scored on validation images."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.report.charts.style import (
    CLEAR,
    DARK,
    GREY,
    WIDTH,
    Chart,
    data,
    looks,
    near,
    nice_levels,
    score_limits,
    tips,
)
from pipeline.report.methods import Look
from pipeline.report.report import Report
from pipeline.report.words import describe
from pipeline.training.records import TrialRecord

OTHER, STOPPED = Look("other trial", GREY), Look("stopped early", "#d9c9a5")
MOST_CURVES = 200
"""Trials whose curves are drawn: those with a role, then the best."""
MEASURES = {"score": "score: harmonic mean (%)", "base": "base (%)", "new": "new (%)",
            "loss": "training loss"}  # fmt: skip
AXES = {"prompt.n_ctx": "context tokens", "train.lr": "learning rate"}
TIPS = {"score": "score (%)", "base": "base (%)", "new": "new (%)"}


def in_percent(trial: TrialRecord) -> dict[str, float]:
    """Return a trial's accuracies in percent, rounded for files."""
    return {name: round(100 * getattr(trial, name), 2) for name in ("score", "base", "new")}


def trial_rows(report: Report) -> pd.DataFrame:
    """Return a row per trial that ran to its end, the marked ones last."""
    front = {trial.number for trial in report.front}
    rows = [
        {
            "trial": trial.number,
            "role": report.roles.get(trial.number, OTHER).label,
            "front": trial.number in front,
            "settings": describe(trial.settings),
            "bytes": trial.size_bytes,
            **in_percent(trial),
            **{key.rpartition(".")[2]: value for key, value in trial.settings.items()},
        }
        for trial in sorted(report.trials, key=lambda t: (t.number in report.roles, t.number))
    ]
    return pd.DataFrame(rows)


def size_chart(report: Report) -> Chart:
    """Score against bytes: trials, Pareto front, winners and the papers' methods."""
    rows = trial_rows(report)
    low, high = score_limits([trial.score for trial in report.trials])
    below = Look(f"other trial, below {low:.0f} %", GREY, "triangle-down")
    marked = rows["role"] != OTHER.label
    rows["mark"] = rows["role"]
    rows.loc[marked, "mark"] = [
        f"{row.role}: {row.score:.1f} %, {row.bytes:,} B" for row in rows[marked].itertuples()
    ]
    rows.loc[~marked & (rows["score"] < low), "mark"] = below.label
    rows["shown"] = rows["score"].clip(lower=low)
    by_score = rows.sort_values("score", ascending=False, kind="stable")
    known = {row.mark: report.roles[row.trial] for row in by_score[marked].itertuples()}
    rest = {other.label: other for other in (OTHER, below) if (rows["mark"] == other.label).any()}
    x = alt.X("bytes:Q", title="stored size of one prompt (bytes, log scale)")
    x = x.scale(type="log", base=2, nice=False, padding=20).axis(format=",d", tickCount=6)
    y = alt.Y("shown:Q", **near("validation harmonic mean (%)", low, high))
    steps = rows[rows["front"]].sort_values("bytes")[["bytes", "shown"]]
    end = steps.tail(1).assign(bytes=rows["bytes"].max())
    front = alt.Chart(data(pd.concat([steps, end]))).mark_line(
        interpolate="step-after", color=DARK, strokeWidth=1.3
    )
    points = alt.Chart(data(rows)).mark_point(filled=True, opacity=1, stroke="white", strokeWidth=0.6)
    is_named = alt.datum.role != OTHER.label
    drawing = front.encode(x=x, y=y) + points.encode(
        x=x,
        y=y,
        size=alt.condition(is_named, alt.value(160), alt.value(45)),
        tooltip=tips("role", "trial", "settings", "bytes", **TIPS),
        **looks("mark", known | rest),
    )
    return Chart(
        "size",
        "Score against stored size",
        "Each point is a trial of the sweep, scored on validation images. The line is the best "
        "score that a given number of bytes can buy: the Pareto front. Marked: the winners, and "
        "the best trial of each of the papers' methods that the sweep tried.",
        rows.drop(columns=["mark", "shown"]),
        drawing.properties(width=WIDTH, height=340),
    )


def rank_bits_chart(report: Report) -> Chart:
    """The best score of each rank and number of bits, and how many trials had them."""
    cells = [
        {
            **{name: str(trial.settings.get(f"prompt.{name}", "fixed")) for name in ("rank", "bits")},
            "score": round(100 * trial.score, 2),
        }
        for trial in report.trials
    ]
    found = pd.DataFrame(cells).groupby(["rank", "bits"])["score"]
    rows = found.agg(score="max", trials="count").reset_index()
    rows["count"] = [f"{n} trial{'s' if n > 1 else ''}" for n in rows["trials"]]
    low, high = score_limits([trial.score for trial in report.trials])
    order: dict[str, list[str]] = {
        name: sorted(rows[name].unique(), key=lambda v: (not v.isdigit(), v.zfill(9), v))
        for name in ("rank", "bits")
    }
    cell = alt.Chart(data(rows)).encode(
        x=alt.X("bits:N", sort=order["bits"], title="bits per stored number (16: not quantized)")
        .axis(labelAngle=0, domain=False, ticks=False),
        y=alt.Y("rank:N", sort=order["rank"], title="rank of the prompt").axis(
            domain=False, ticks=False
        ),
        tooltip=tips("rank", "bits", "trials", score="best score (%)"),
    )  # fmt: skip
    ink = alt.condition(alt.datum.score > (low + high) / 2, alt.value("white"), alt.value("#1a1a1a"))
    drawing = (
        cell.mark_rect(stroke="white", strokeWidth=3).encode(color=score_colour(low, high))
        + cell.mark_text(dy=-6, fontSize=15).encode(text=alt.Text("score:Q", format=".1f"), color=ink)
        + cell.mark_text(dy=13, fontSize=10).encode(text="count:N", color=ink)
    )
    size = {"width": 110 * max(len(order["bits"]), 3), "height": 62 * len(order["rank"])}
    return Chart(
        "rank-bits",
        "Best score (%) by rank and bits",
        "Best validation score of each combination, and its number of trials: a cell with more "
        "trials had more chances. Combinations without a cell were not tried.",
        rows.drop(columns="count"),
        drawing.properties(**size),
    )


def score_colour(low: float, high: float) -> alt.Color:
    """Return the colours of scores: dark is good."""
    scale = alt.Scale(scheme="viridis", reverse=True, domain=[low, high], clamp=True)
    return alt.Color("score:Q", scale=scale, legend=None)


def importances_chart(report: Report) -> Chart:
    """A bar per axis, and on it the mark that shuffled scores reach."""
    rows = pd.DataFrame(
        [
            {
                "axis": one.axis,
                "importance": round(100 * one.share, 1),
                "chance": round(100 * one.chance, 1),
            }
            for one in report.importances
        ]
    )
    bar = alt.Chart(data(rows)).encode(
        y=alt.Y("axis:N", sort=None, title=None),
        tooltip=tips("axis", importance="importance (%)", chance="chance gives up to (%)"),
    )
    clear = alt.condition(alt.datum.importance > alt.datum.chance, alt.value(CLEAR), alt.value(GREY))
    drawing = bar.mark_bar(height=20).encode(
        x=alt.X("importance:Q", title="share of the importance (%)"), color=clear
    ) + bar.mark_tick(color="#1a1a1a", thickness=3, height=32).encode(x="chance:Q")
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
    trials = [*report.trials, *report.pruned]
    best = sorted(trials, key=lambda t: (t.number not in report.roles, -t.score, t.number))
    return sorted(best[:MOST_CURVES], key=lambda t: t.number)


def curves_chart(report: Report) -> Chart:
    """What every trial measured after each of its rounds; stopped ones end in a cross."""
    stopped = {trial.number for trial in report.pruned}
    rows = pd.DataFrame(
        [
            {
                "trial": trial.number,
                "role": report.roles.get(
                    trial.number, STOPPED if trial.number in stopped else OTHER
                ).label,
                "settings": describe(trial.settings),
                "round": place,
                "last": place == len(trial.history),
                "loss": round(measured["loss"], 4),
                **{name: round(100 * measured[name], 2) for name in ("score", "base", "new")},
            }
            for trial in curved(report)
            for place, measured in enumerate(trial.history, start=1)
        ]
    )
    known = {one.label: one for one in report.roles.values()}
    known |= {one.label: one for one in (OTHER, STOPPED) if (rows["role"] == one.label).any()}
    folded = alt.Chart().transform_fold(list(MEASURES), as_=["measure", "value"])
    last = int(rows["round"].max())
    line = folded.encode(
        x=alt.X("round:Q", title="round").axis(values=list(range(1, last + 1, -(-last // 12)))),
        y=alt.Y("value:Q", title=None).scale(zero=False),
        detail="trial:N",
        color=looks("role", known)["color"],
    )
    special = (alt.datum.role != OTHER.label) & (alt.datum.role != STOPPED.label)
    drawing = alt.layer(
        line.transform_filter(~special).mark_line(strokeWidth=1),
        line.transform_filter((alt.datum.role == STOPPED.label) & alt.datum.last).mark_text(text="×"),
        line.transform_filter(special).mark_line(strokeWidth=2.5),
        line.mark_point(filled=True, size=90, opacity=0).encode(
            tooltip=tips("role", "trial", "settings", "round", "loss", **TIPS)
        ),
        data=data(rows),
    ).properties(width=WIDTH // 2 - 30, height=170)
    names = " : ".join(f"datum.value == '{name}' ? '{title}'" for name, title in MEASURES.items())
    header = alt.Header(title=None, labelExpr=f"{names} : ''")
    panels = alt.Facet("measure:N", sort=list(MEASURES), header=header)
    return Chart(
        "curves",
        "Learning curves on validation images",
        "Base and pseudo-new classes, mean over tasks and seeds, measured on the prompt as it is "
        "stored after each round. Trials that were stopped early end in a cross.",
        rows.drop(columns="last"),
        drawing.facet(panels, columns=2).resolve_scale(y="independent"),
    )


def coordinates_chart(report: Report) -> Chart:
    """One line per trial over its settings and its score."""
    trials = sorted(report.trials, key=lambda trial: trial.score)
    names = [name for name in trials[0].settings if all(name in t.settings for t in trials)]
    low, high = score_limits([trial.score for trial in trials])
    scores = pd.Series([100 * trial.score for trial in trials])
    heights, ticks = {}, []
    for name in names:
        title = AXES.get(name, name.rpartition(".")[2])
        heights[title], own = axis_heights([trial.settings[name] for trial in trials])
        ticks += [{"axis": title, "height": height, "label": label} for height, label in own.items()]
    heights["score (%)"] = ((scores - low) / (high - low)).clip(0, 1)
    marks = [level for level in nice_levels(low, high)]
    ticks += [{"axis": "score (%)", "height": (v - low) / (high - low), "label": f"{v:g}"} for v in marks]
    champion = report.winners["champion"].number
    rows = pd.DataFrame(
        [
            {
                "trial": trial.number,
                "settings": describe(trial.settings),
                "axis": axis,
                "height": float(values[place]),
                "champion": trial.number == champion,
                **in_percent(trial),
            }
            for place, trial in enumerate(trials)
            for axis, values in heights.items()
        ]
    )
    x = alt.X("axis:N", sort=list(heights), title=None)
    x = x.axis(labelAngle=0, domain=False, ticks=False, grid=True, gridColor="#888888", labelPadding=12)
    y = alt.Y("height:Q", axis=None).scale(domain=[-0.05, 1.05])
    line = alt.Chart(data(rows)).encode(
        x=x,
        y=y,
        detail="trial:N",
        color=score_colour(low, high),
        tooltip=tips("trial", "settings", **TIPS),
    )
    labels = alt.Chart(data(pd.DataFrame(ticks))).encode(x=x, y=y, text="label:N")
    halo = labels.mark_text(align="right", dx=-5, fontSize=12, stroke="white", strokeWidth=4)
    drawing = (
        line.transform_filter(~alt.datum.champion).mark_line(interpolate="monotone", strokeWidth=1.4)
        + line.transform_filter(alt.datum.champion).mark_line(interpolate="monotone", strokeWidth=5)
        + halo
        + labels.mark_text(align="right", dx=-5, fontSize=12)
    )
    return Chart(
        "sweep",
        f"The sweep's {len(trials)} trials: which settings lead to which score",
        "Each line is a trial: its settings and, at the right, its validation score. Lines are set "
        "slightly apart where values coincide. The thick line is the champion.",
        rows,
        drawing.properties(width=WIDTH, height=320),
    )


def axis_heights(values: list[Any]) -> tuple[pd.Series[float], dict[float, str]]:
    """Return heights in [0, 1] of the trials, which come by score, and the axis's labels.

    Positive fractions are on a log scale; other values are evenly spaced, and trials that share
    one are set slightly apart.
    """
    column = pd.Series(values)
    if all(isinstance(value, float) and value > 0 for value in values) and column.nunique() > 6:
        logs = np.log10(column.astype(float))
        low, room = logs.min(), (logs.max() - logs.min()) or 1.0
        nice = [m * 10.0**e for e in range(-8, 4) for m in (1, 2, 5)]
        places = {(np.log10(value) - low) / room: f"{value:g}" for value in nice}
        return (logs - low) / room, {h: text for h, text in places.items() if -0.02 <= h <= 1.02}
    levels = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    place = {v: i / (len(levels) - 1) if len(levels) > 1 else 0.5 for i, v in enumerate(levels)}
    groups = column.groupby(column, sort=False)
    shift = groups.cumcount() - (groups.transform("size") - 1) / 2
    step = (0.14 / groups.transform("size")).clip(upper=0.012)
    return column.map(place).astype(float) + shift * step, {place[v]: str(v) for v in levels}
