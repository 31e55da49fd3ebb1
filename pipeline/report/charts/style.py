"""What all charts share: their look, and how they are rendered.

vl-convert renders charts to SVG and PNG, and has the JavaScript that draws them in a page; nothing
is loaded from elsewhere. Score colours (`viridis`, reversed: dark is good) mean the same in all
charts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from pipeline.report.methods import Look

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
"""The version that Altair writes; vl-convert has several, and must have this one."""
WIDTH = 620
GREY, DARK, CLEAR = "#b5b5b5", "#333333", "#0072b2"
SPREAD = "Bars show one standard deviation over seeds; zero-shot has no seeds."
CONFIG: Any = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 15, "offset": 14},
    "header": {"titleFontSize": 12, "labelFontSize": 12, "labelFontWeight": "bold"},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleColor": DARK,
        "labelColor": "#555555",
        "gridColor": "#e6e6e6",
        "domainColor": "#888888",
        "tickColor": "#888888",
    },
    "legend": {"labelFontSize": 12, "labelLimit": 0, "symbolLimit": 0, "rowPadding": 6},
}


@dataclass(frozen=True)
class Chart:
    """A chart with its rows.

    Attributes:
        name: of its files.
        title, caption: for people.
        rows: what it shows; DVC draws them on its own.
        drawing: its description.
    """

    name: str
    title: str
    caption: str
    rows: pd.DataFrame
    drawing: alt.LayerChart | alt.FacetChart | alt.Chart

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart in Vega-Lite."""
        titled = self.drawing.properties(title=self.title).configure(**CONFIG)
        return dict(titled.to_dict())

    @cached_property
    def svg(self) -> str:
        """The chart as a vector graphic; the same chart gives the same text."""
        return str(vl_convert.vegalite_to_svg(self.spec, vl_version=VEGA_LITE))

    @property
    def png(self) -> bytes:
        """The chart as a picture."""
        return bytes(vl_convert.vegalite_to_png(self.spec, vl_version=VEGA_LITE, scale=2))

    @property
    def data_uri(self) -> str:
        """The vector graphic inside its own address, so that the page needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


@lru_cache(maxsize=1)
def script() -> str:
    """Return the JavaScript that draws charts, as text that may be inside a script element."""
    bundle = str(vl_convert.javascript_bundle("window.drawChart = vegaEmbed;", VEGA_LITE))
    assert "</script" not in bundle, "it would end its own element"
    assert "<!--" not in bundle, "it would begin a comment"
    return bundle


def data(rows: pd.DataFrame) -> alt.Data:
    """Return rows as data of a chart; a table with rows beyond Altair's limit (5,000), too."""
    return alt.Data(values=rows.to_dict("records"))


def looks(column: str, known: Mapping[str, Look], **legend: Any) -> dict[str, Any]:
    """Return colour and shape of marks by a column: `known` has a look for each of its values."""
    domain, legend = list(known), alt.Legend(title=None, **legend) if known else None
    return {
        "color": alt.Color(f"{column}:N", legend=legend).scale(
            domain=domain, range=[look.colour for look in known.values()]
        ),
        "shape": alt.Shape(f"{column}:N", legend=legend).scale(
            domain=domain, range=[look.shape for look in known.values()]
        ),
    }


def tips(*columns: str, **titled: str) -> list[alt.Tooltip]:
    """Return what a reader sees who points at a mark: columns, and columns with other titles."""
    return [alt.Tooltip(name, title=title) for name, title in [*zip(columns, columns), *titled.items()]]


def near(title: str, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Return an axis of percentages that need not begin at 0."""
    scale = alt.Scale(zero=False, nice=low is None)
    if low is not None:
        scale = alt.Scale(domain=[low, high], nice=False)
    return {"title": title, "scale": scale}


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a score axis in percent: all scores, but for far outliers below."""
    percent = pd.Series(scores) * 100
    top, middle = percent.max(), percent.median()
    bottom = percent[percent >= middle - 4 * max(top - middle, 1.0)].min()
    room = max(top - bottom, 1.0)
    return round(bottom - 0.1 * room, 2), round(top + 0.1 * room, 2)

def nice_levels(low: float, high: float) -> list[float]:
    """Return up to ten round numbers between two."""
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 10)
    return [float(level) for level in np.arange(np.ceil(low / step) * step, high, step).round(6)]
