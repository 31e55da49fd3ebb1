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
import vl_convert

from pipeline.report.methods import Look

Row = dict[str, Any]
VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
"""The version that Altair writes; vl-convert has several, and must have this one."""
WIDTH = 620
GREY, DARK, CLEAR = "#b5b5b5", "#333333", "#0072b2"
SPREAD = "Bars show one standard deviation over seeds; zero-shot has no seeds."
AXIS = {"titleFontWeight": "normal", "titleColor": DARK, "labelColor": "#555555"}
LINES = {"gridColor": "#e6e6e6", "domainColor": "#888888", "tickColor": "#888888"}
CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 15, "offset": 14},
    "header": {"labelFontSize": 12, "labelFontWeight": "bold"},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, **AXIS, **LINES},
    "legend": {"labelFontSize": 12, "labelLimit": 0, "symbolLimit": 0, "rowPadding": 6},
    "text": {"fontSize": 12},
    "point": {"filled": True, "opacity": 1, "stroke": "white", "strokeWidth": 0.6},
}


@dataclass(frozen=True)
class Chart:
    """A chart with its rows.

    Attributes:
        name: of its files.
        title, caption: for people.
        rows: what it shows; DVC plots them, too.
        drawing: its description.
    """

    name: str
    title: str
    caption: str
    rows: list[Row]
    drawing: alt.LayerChart | alt.FacetChart

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart in Vega-Lite."""
        return dict(self.drawing.properties(title=self.title).configure(**CONFIG).to_dict())

    @cached_property
    def svg(self) -> str:
        """The chart as a vector graphic; the same chart gives the same text."""
        return str(vl_convert.vegalite_to_svg(self.spec, vl_version=VEGA_LITE))

    @property
    def png(self) -> bytes:
        """The chart as a picture."""
        return bytes(vl_convert.svg_to_png(self.svg, scale=2))

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


def chart(rows: Sequence[Row], **channels: Any) -> alt.Chart:
    """Return the start of a chart: a mark per row.

    Altair refuses tables of more than 5,000 rows; as plain values there is no such limit.
    """
    return alt.Chart(alt.InlineData(values=list(rows))).encode(**channels)


def looks(column: str, known: Mapping[str, Look], **legend: Any) -> dict[str, Any]:
    """Return colour and shape of marks: `known` has a look for each value of a column."""
    legend["title"], found = None, list(known.values())
    colour, shape = (
        kind(column, type="nominal", legend=alt.Legend(**legend)).scale(
            domain=list(known), range=[getattr(one, name) for one in found]
        )
        for kind, name in ((alt.Color, "colour"), (alt.Shape, "shape"))
    )
    return {"color": colour, "shape": shape}


def tips(*columns: str, **titled: str) -> list[alt.Tooltip]:
    """Return what a reader sees who points at a mark: columns, and columns with other titles."""
    titles = {**dict(zip(columns, columns, strict=True)), **titled}
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]


def between(low: float, high: float) -> alt.Scale:
    """Return a scale with these ends."""
    return alt.Scale(domain=[low, high], nice=False, zero=False)


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a score axis in percent: all scores, but for far outliers below."""
    percents = 100 * np.array(scores)
    top, middle = percents.max(), np.median(percents)
    bottom = percents[percents >= middle - 4 * max(top - middle, 1.0)].min()
    room = max(top - bottom, 1.0)
    return round(float(bottom - 0.1 * room), 2), round(float(top + 0.1 * room), 2)


def nice_levels(low: float, high: float) -> list[float]:
    """Return up to ten round numbers between two."""
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 10)
    return [float(level) for level in np.arange(np.ceil(low / step) * step, high, step).round(6)]
