"""Charts of the test: what methods reached on test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.report.charts.style import (
    DARK,
    SPREAD,
    WIDTH,
    Chart,
    Row,
    between,
    chart,
    looks,
    nice_levels,
    tips,
)
from pipeline.report.methods import look
from pipeline.report.outcome import BASE_TO_NEW, Outcome
from pipeline.report.words import percent


def gain_chart(outcome: Outcome) -> Chart:
    """What each method gains over zero-shot, with its noise and its size."""
    zero, words = outcome.zero_shot, outcome.measures[outcome.main]
    assert zero
    rows: list[Row] = []
    known = {}
    for name in sorted(outcome.methods, key=lambda name: -outcome.mean(name)):
        gap, size = outcome.gap(name, zero), outcome.size(name)
        label = f"{look(name).label}, {size:,} B" if size else look(name).label
        known[label] = look(name)
        gain, noise = (round(100 * (value or 0), 2) for value in (gap.mean, gap.noise))
        rows.append(
            {"method": label, "gain": gain, "noise": noise, "bytes": size}
            | {"accuracy": f"{percent(outcome.mean(name))} %"}
        )
    drawn = [
        row | {"low": row["gain"] - row["noise"], "high": row["gain"] + row["noise"]}
        for row in rows
    ]
    y = alt.Y("method:N", sort=None, title=None).axis(labelLimit=0, domain=False, ticks=False)
    x = alt.X("gain:Q", title=f"{words} on test images, points above {look(zero).label}")
    tip = tips("method", "accuracy", "bytes", gain="gain (points)", noise="noise (±)")
    row, colour = chart(drawn, y=y, tooltip=tip), looks("method", known)["color"].legend(None)
    drawing = alt.layer(
        row.mark_bar(height=14, opacity=0.85).encode(x=x, color=colour),
        row.mark_rule(color=DARK, strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        row.mark_text(align="left").encode(x=alt.value(WIDTH + 10), text="accuracy:N"),
        chart([{"gain": 0}], x="gain:Q").mark_rule(color=DARK),
    )
    return Chart(
        "gain",
        f"What tuning gains: {words} over zero-shot, and bytes per task",
        "Lines show noise: twice the standard error of the gain over seeds. A bar that is no "
        f"longer than its line may be chance. At the right: {words} on test images.",
        rows,
        drawing.properties(width=WIDTH, height=alt.Step(26)),
    )


def spread_rows(values: pd.DataFrame, by: Sequence[str]) -> list[Row]:
    """Return mean, spread and the ends of its bar for every group and column, in percent."""
    percents = 100 * values.rename_axis(columns="measure").stack()
    groups = percents.groupby(level=[*by, "measure"], sort=False)
    rows = groups.agg(accuracy="mean", spread="std").fillna(0.0).reset_index()
    rows["low"], rows["high"] = rows["accuracy"] - rows["spread"], rows["accuracy"] + rows["spread"]
    return [{str(k): v for k, v in row.items()} for row in rows.round(2).to_dict("records")]


def base_new_chart(outcome: Outcome) -> Chart:
    """Base against new accuracy, with lines of equal harmonic mean."""
    rows: dict[str, Row] = {name: {"method": name} for name in outcome.methods}
    for own in spread_rows(outcome.overall[["base", "new"]], ["method"]):
        values = ("accuracy", "spread", "low", "high")
        rows[own["method"]] |= {f"{own['measure']}_{value}": own[value] for value in values}
    limits = {}
    for side in ("base", "new"):
        low = min(row[f"{side}_low"] for row in rows.values())
        high = max(row[f"{side}_high"] for row in rows.values())
        room = max(0.25 * (high - low), 1.0)
        limits[side] = (round(low - room, 2), round(high + room, 2))
    marks = {name: f"{look(name).label}: {percent(outcome.mean(name))}" for name in rows}
    shape = looks("mark", {mark: look(name) for name, mark in marks.items()})
    across: dict[str, Any] = {
        "title": "accuracy on base classes (%)",
        "scale": between(*limits["base"]),
    }
    up: dict[str, Any] = {"title": "accuracy on new classes (%)", "scale": between(*limits["new"])}
    x, y = alt.X("base_accuracy:Q", **across), alt.Y("new_accuracy:Q", **up)
    lines = contours(*limits["base"], *limits["new"])
    tip = tips(mark="harmonic mean (%)", base_accuracy="base (%)", new_accuracy="new (%)")
    point = chart([row | {"mark": marks[name]} for name, row in rows.items()], x=x, y=y)
    bar = point.mark_rule(strokeWidth=1.5).encode(color=shape["color"])
    drawing = alt.layer(
        chart(sum(lines, []), x=x, y=y, detail="level:N").mark_line(
            color="#bbbbbb", strokeWidth=1, strokeDash=[1, 3]
        ),
        chart([line[-1] for line in lines], x=x, y=y, text="level:N").mark_text(
            color="#888888", align="right", baseline="bottom", dy=-3, fontSize=11
        ),
        bar.encode(x=alt.X("base_low:Q", **across), x2="base_high:Q"),
        bar.encode(y=alt.Y("new_low:Q", **up), y2="new_high:Q"),
        point.mark_point(size=130).encode(tooltip=tip, **shape),
    )
    return Chart(
        "test",
        "Test accuracy: base against new classes",
        "Mean over all tasks on test images, in the styles of the shots. "
        f"{SPREAD} Along a dotted line the harmonic mean (%) is constant; next to each name is its "
        "own. Up and to the right is better.",
        list(rows.values()),
        drawing.properties(width=WIDTH - 140, height=380),
    )


def contours(left: float, right: float, bottom: float, top: float) -> list[list[Row]]:
    """Return points on lines of equal harmonic mean inside a rectangle."""
    low, high = (2 * b * n / (b + n) for b, n in ((left, max(bottom, 1e-9)), (right, top)))
    lines = []
    for level in nice_levels(low, high):
        base = np.linspace(max(left, level / 2 + 1e-6), right, 60)
        new = level * base / (2 * base - level)
        inside = zip(base, new, strict=True)
        lines.append(
            [
                {"level": level, "base_accuracy": round(b, 3), "new_accuracy": round(n, 3)}
                for b, n in inside
                if bottom <= n <= top
            ]
        )
    return [line for line in lines if line]


def tasks_chart(outcome: Outcome) -> Chart:
    """A panel per measure, a row per task or target, a mark with its spread per method."""
    rows = spread_rows(outcome.rows[list(outcome.measures)], ["row", "method"])
    rows = [
        {"task": row.pop("row"), **row, "measure": outcome.measures[row["measure"]]}
        | {"method": look(row["method"]).label}
        for row in rows
    ]
    known = {look(name).label: look(name) for name in outcome.methods}
    shape = looks("method", known, orient="bottom", columns=5)
    y = alt.Y("task:N", sort=None, title=None).axis(
        domain=False, ticks=False, labelLimit=0, grid=True, tickBand="extent"
    )
    line = alt.Chart().encode(y=y, yOffset=alt.YOffset("method:N", sort=list(known)))
    x = alt.X("low:Q", title="accuracy (%)").scale(zero=False)
    tip = tips("task", "method", accuracy="mean (%)", spread="± (%)")
    drawing = alt.layer(
        line.mark_rule(strokeWidth=1.5).encode(x=x, x2="high:Q", color=shape["color"]),
        line.mark_point(size=55).encode(x="accuracy:Q", tooltip=tip, **shape),
        data=alt.InlineData(values=rows),
    )
    width = (WIDTH + 40) // len(outcome.measures) - 20
    panels = drawing.properties(width=width, height=alt.Step(9, **{"for": "offset"})).facet(
        column=alt.Column("measure:N", sort=list(outcome.measures.values()), title=None)
    )
    where = ", in the styles of the shots" if outcome.protocol == BASE_TO_NEW else ""
    return Chart(
        "tasks",
        "Test accuracy of every method",
        f"Test images{where}. {SPREAD}",
        rows,
        panels.resolve_scale(x="independent"),
    )
