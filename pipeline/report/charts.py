"""The page's live charts: Vega-Lite, drawn by JavaScript that stands inside the page.

They show what the figures of the same name show, and tell each point's trial. The only module that
imports vl_convert, from which the JavaScript comes; nothing is loaded from elsewhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import vl_convert

from pipeline.report.colours import COLOURS, OTHER
from pipeline.report.points import accuracy_points, curve_points, roles_of, trial_points
from pipeline.report.report import Report
from pipeline.report.summary import METHODS

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
CONFIG: Spec = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleColor": "#333333",
        "labelColor": "#555555",
        "gridColor": "#e6e6e6",
        "domainColor": "#888888",
        "tickColor": "#888888",
    },
    "legend": {
        "labelFontSize": 12,
        "labelLimit": 0,
        "orient": "bottom",
        "columns": {"expr": "width < 500 ? 1 : 4"},
        "symbolLimit": 0,
    },
}
HEIGHT = 380
MOST_TICKS = 12


def live_charts(report: Report) -> dict[str, Spec]:
    """Return the charts that the report has the numbers for, by the name of their figure."""
    made = {
        "size": size_chart(report),
        "tasks": tasks_chart(report),
        "curves": curves_chart(report),
    }
    lacking = {
        "tasks": not report.panels,
        "curves": all(len(trial.history) < 2 for trial in report.trials),
    }
    return {name: chart for name, chart in made.items() if not lacking.get(name, False)}


@lru_cache(maxsize=1)
def script() -> str:
    """Return the JavaScript that draws charts, as text that may stand inside a script element."""
    bundle = str(vl_convert.javascript_bundle("window.drawChart = vegaEmbed;", vl_version="6.4"))
    assert "</script" not in bundle, "it would end its own element"
    assert "<!--" not in bundle, "it would begin a comment"
    return bundle


def base(values: list[Spec], **parts: Any) -> Spec:
    """Return a chart of rows that fills the page's width."""
    return {
        "$schema": SCHEMA,
        "config": CONFIG,
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": values},
        **parts,
    }


def role_colours(report: Report) -> Spec:
    """Return the colours of what trials are called."""
    named = dict.fromkeys(roles_of(report).values())
    by_label = {label: COLOURS.get(name, "#555555") for name, label in METHODS.items()}
    known = {role: by_label.get(role.split(" = ")[0], "#555555") for role in named}
    colours = {**known, "trial": OTHER, **({"stopped early": "#d9c9a5"} if report.pruned else {})}
    return {"domain": list(colours), "range": list(colours.values())}


def percent_axis(title: str) -> Spec:
    """Return an axis of accuracies that does not begin at 0."""
    return {"type": "quantitative", "scale": {"zero": False, "nice": True}, "title": title}


def size_chart(report: Report) -> Spec:
    """Score against bytes; pointing at a trial tells its settings."""
    x = {
        "field": "bytes",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "nice": False, "padding": 20},
        "title": "stored size of one prompt (bytes, log scale)",
        "axis": {"format": ",d", "tickCount": 6},
    }
    y = {"field": "score", **percent_axis("validation harmonic mean (%)")}
    named, tip = "datum.role != 'trial'", ["role", "trial", "what", "score", "base", "new", "bytes"]
    points = {
        "mark": {"type": "point", "filled": True, "opacity": 0.95, "stroke": "white"},
        "encoding": {
            "x": x,
            "y": y,
            "color": {
                "field": "role",
                "type": "nominal",
                "scale": role_colours(report),
                "title": None,
            },
            "size": {"condition": {"test": named, "value": 190}, "value": 70},
            "order": {"condition": {"test": named, "value": 1}, "value": 0},
            "tooltip": [{"field": name, "title": TIPS.get(name, name)} for name in tip],
        },
    }
    steps = [{"bytes": t.size_bytes, "score": 100 * t.score} for t in report.front]
    largest = max(trial.size_bytes for trial in report.trials)
    front = {
        "data": {"values": [*steps, {**steps[-1], "bytes": largest}]},
        "mark": {"type": "line", "interpolate": "step-after", "color": "#333333"},
        "encoding": {"x": x, "y": y, "order": {"field": "bytes"}},
    }
    return base(trial_points(report), layer=[front, points])


TIPS = {"what": "settings", "score": "score (%)", "base": "base (%)", "new": "new (%)"}


def menu(name: str, options: list[str], label: str) -> Spec:
    """Return a choice that stands above a chart."""
    return {"name": name, "value": options[0], "bind": {
        "input": "select", "options": options, "name": f"{label} "}}  # fmt: skip


def tasks_chart(report: Report) -> Spec:
    """Every method on every task, with its spread; a menu chooses base, new or both."""
    titles = [panel.title for panel in reversed(report.panels)]
    names = dict.fromkeys(n for p in report.panels for row in p.rows.values() for n in row)
    scale = {
        "domain": [METHODS.get(name, name) for name in names],
        "range": [COLOURS.get(name, "#555555") for name in names],
    }
    shared = {
        "x": {"field": "task", "type": "nominal", "sort": None, "title": None,
              "axis": {"labelAngle": -35}},
        "xOffset": {"field": "method", "type": "nominal", "sort": scale["domain"]},
        "color": {"field": "method", "type": "nominal", "scale": scale, "title": None},
        "tooltip": [
            {"field": "task"},
            {"field": "method"},
            {"field": "accuracy", "title": "mean (%)"},
            {"field": "spread", "title": "± (%)"},
        ],
    }  # fmt: skip
    bars = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {**shared, "y": {"field": "low", **percent_axis("accuracy (%)")},
                     "y2": {"field": "high"}},
    }  # fmt: skip
    dots = {
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {**shared, "y": {"field": "accuracy", **percent_axis("accuracy (%)")}},
    }
    return base(
        accuracy_points(report),
        params=[menu("shown", titles, "Accuracy on")] if len(titles) > 1 else [],
        transform=[{"filter": "datum.measure == shown"}] if len(titles) > 1 else [],
        layer=[bars, dots],
    )


def curves_chart(report: Report) -> Spec:
    """A line per trial over its rounds; a menu chooses what it shows."""
    measures = ["score", "base", "new", "loss"]
    named = "datum.role != 'trial' && datum.role != 'stopped early'"
    tip = ["role", "trial", "what", "round", "score", "base", "new", "loss"]
    points = curve_points(report)
    last = max((point["round"] for point in points), default=1)
    shared = {
        "x": {
            "field": "round",
            "type": "quantitative",
            "axis": {"values": list(range(1, last + 1, -(-last // MOST_TICKS)))},
            "title": "round",
        },
        "y": {"field": "shown_value", **percent_axis("")},
        "detail": {"field": "trial"},
        "color": {
            "field": "role",
            "type": "nominal",
            "scale": role_colours(report),
            "title": None,
        },
    }
    return base(
        points,
        params=[menu("shown", measures, "Measure")],
        transform=[{"calculate": "datum[shown]", "as": "shown_value"}],
        layer=[
            {"transform": [{"filter": f"!({named})"}], "mark": {"type": "line", "strokeWidth": 1},
             "encoding": shared},
            {"transform": [{"filter": named}], "mark": {"type": "line", "strokeWidth": 3},
             "encoding": shared},
            {
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 0},
                "encoding": {
                    **shared,
                    "tooltip": [{"field": name, "title": TIPS.get(name, name)} for name in tip],
                },
            },
        ],
    )  # fmt: skip
