"""Charts of the test: what methods reached on test images."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from pipeline.report.charts.style import (
    DARK,
    SPREAD,
    WIDTH,
    Chart,
    data,
    looks,
    near,
    nice_levels,
    tips,
)
from pipeline.report.methods import look
from pipeline.report.outcome import BASE_TO_NEW, Outcome
from pipeline.report.words import percent


def gain_chart(outcome: Outcome) -> Chart:
    """What each method gains over zero-shot, with its noise and its size."""
    zero = outcome.zero_shot
    assert zero
    rows = []
    for name in outcome.methods:
        gap, size = outcome.gap(name, zero), outcome.costs["size_bytes"][name]
        rows.append(
            {
                "method": f"{look(name).label}{f', {size:,} B' if size else ''}",
                "gain": round(100 * gap.mean, 2),
                "noise": round(100 * (gap.noise or 0), 2),
                "accuracy": f"{percent(outcome.mean(name))} %",
                "bytes": int(size),
            }
        )
    known = {row["method"]: look(name) for row, name in zip(rows, outcome.methods, strict=True)}
    frame = pd.DataFrame(rows).sort_values("gain", ascending=False, kind="stable")
    frame["low"], frame["high"] = frame["gain"] - frame["noise"], frame["gain"] + frame["noise"]
    words = outcome.measures[outcome.main]
    row = alt.Chart(data(frame)).encode(
        y=alt.Y("method:N", sort=None, title=None).axis(labelLimit=0, domain=False, ticks=False),
        tooltip=tips("method", "accuracy", "bytes", gain="gain (points)", noise="noise (±)"),
    )
    drawing = alt.layer(
        row.mark_bar(height=14, opacity=0.85).encode(
            x=alt.X("gain:Q", title=f"{words} on test images, points above {look(zero).label}"),
            color=looks("method", known)["color"].legend(None),
        ),
        row.mark_rule(color=DARK, strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        row.mark_text(align="left").encode(x=alt.value(WIDTH - 150), text="accuracy:N"),
        alt.Chart(data(pd.DataFrame([{"gain": 0}]))).mark_rule(color=DARK).encode(x="gain:Q"),
    )
    return Chart(
        "gain",
        f"What tuning gains: {words} over zero-shot, and bytes per task",
        "Lines show noise: twice the standard error of the gain over seeds. A bar that is no "
        f"longer than its line may be chance. At the right: {words} on test images.",
        frame.drop(columns=["low", "high"]),
        drawing.properties(width=WIDTH - 160, height=alt.Step(26)),
    )


def spread_rows(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return mean, spread and the ends of its bar for every group and column, in percent."""
    long = values.melt(ignore_index=False, var_name="measure", value_name="accuracy").dropna()
    percents = 100 * long.set_index("measure", append=True)["accuracy"]
    groups = percents.groupby(level=[*by, "measure"], sort=False)
    rows = groups.agg(["mean", "std"]).fillna(0.0).reset_index()
    rows = rows.rename(columns={"mean": "accuracy", "std": "spread"})
    rows["low"], rows["high"] = rows["accuracy"] - rows["spread"], rows["accuracy"] + rows["spread"]
    return rows.round(2)


def base_new_chart(outcome: Outcome) -> Chart:
    """Base against new accuracy, with lines of equal harmonic mean."""
    means = spread_rows(outcome.overall[["base", "new"]], ["method"])
    rows = means.pivot(index="method", columns="measure").loc[outcome.methods]
    rows.columns = pd.Index([f"{side}_{value}" for value, side in rows.columns])
    rows["mark"] = [f"{look(m).label}: {percent(outcome.mean(m))}" for m in outcome.methods]
    known = {mark: look(name) for name, mark in rows["mark"].items()}
    limits = {}
    for side in ("base", "new"):
        low, high = rows[f"{side}_low"].min(), rows[f"{side}_high"].max()
        room = max(0.25 * (high - low), 1.0)
        limits[side] = (round(low - room, 2), round(high + room, 2))
    lines = contours(*limits["base"], *limits["new"])
    x = alt.X("base_accuracy:Q", **near("accuracy on base classes (%)", *limits["base"]))
    y = alt.Y("new_accuracy:Q", **near("accuracy on new classes (%)", *limits["new"]))
    point = alt.Chart(data(rows.reset_index())).encode(x=x, y=y, **looks("mark", known))
    line = alt.Chart(data(lines)).encode(x="base_accuracy:Q", y="new_accuracy:Q", detail="level:N")
    ends = alt.Chart(data(lines.groupby("level").tail(1))).encode(
        x="base_accuracy:Q", y="new_accuracy:Q", text="level:N"
    )
    drawing = alt.layer(
        line.mark_line(color="#bbbbbb", strokeWidth=1, strokeDash=[1, 3]),
        ends.mark_text(color="#888888", align="right", baseline="bottom", dy=-3),
        point.mark_rule().encode(x=alt.X("base_low:Q"), x2="base_high:Q", shape=alt.Undefined),
        point.mark_rule().encode(y=alt.Y("new_low:Q"), y2="new_high:Q", shape=alt.Undefined),
        point.mark_point(filled=True, size=130, opacity=1, stroke="white", strokeWidth=0.6).encode(
            tooltip=tips(mark="harmonic mean (%)", base_accuracy="base (%)", new_accuracy="new (%)")
        ),
    )
    return Chart(
        "test",
        "Test accuracy: base against new classes",
        "Mean over all tasks on test images, in the styles of the shots. "
        f"{SPREAD} Along a dotted line the harmonic mean (%) is constant; next to each name is its "
        "own. Up and to the right is better.",
        rows.drop(columns="mark").reset_index(),
        drawing.properties(width=WIDTH - 140, height=380),
    )


def contours(left: float, right: float, bottom: float, top: float) -> pd.DataFrame:
    """Return points on lines of equal harmonic mean inside a rectangle."""
    low, high = (2 * b * n / (b + n) for b, n in ((left, max(bottom, 1e-9)), (right, top)))
    lines = []
    for level in nice_levels(low, high):
        base = np.linspace(max(left, level / 2 + 1e-6), right, 200)
        new = level * base / (2 * base - level)
        line = pd.DataFrame({"level": level, "base_accuracy": base, "new_accuracy": new})
        lines.append(line[(new >= bottom) & (new <= top)].iloc[::8])
    return pd.concat(lines).round(3)


def tasks_chart(outcome: Outcome) -> Chart:
    """A panel per measure, a row per task or target, a mark with its spread per method."""
    rows = spread_rows(outcome.rows[list(outcome.measures)], ["row", "method"])
    rows["measure"] = rows["measure"].map(outcome.measures)
    rows["method"] = [look(name).label for name in rows["method"]]
    known = {look(name).label: look(name) for name in outcome.methods}
    y = alt.Y("row:N", sort=None, title=None).axis(domain=False, ticks=False, labelLimit=0)
    base = alt.Chart().encode(y=y, yOffset=alt.YOffset("method:N", sort=list(known)))
    tip = tips("method", accuracy="mean (%)", spread="± (%)", row="tested on")
    drawing = alt.layer(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("low:Q", **near("accuracy (%)")), x2="high:Q", color=looks("method", known)["color"]
        ),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            x="accuracy:Q", tooltip=tip, **looks("method", known, orient="bottom", columns=5)
        ),
        data=data(rows),
    ).properties(width=(WIDTH + 40) // len(outcome.measures) - 20, height=alt.Step(9, **{"for": "offset"}))
    panels = alt.Facet("measure:N", sort=list(outcome.measures.values()), title=None)
    where = ", in the styles of the shots" if outcome.protocol == BASE_TO_NEW else ""
    return Chart(
        "tasks",
        "Test accuracy of every method",
        f"Test images{where}. {SPREAD}",
        rows.rename(columns={"row": "task"}),
        drawing.facet(column=panels).resolve_scale(x="independent"),
    )
