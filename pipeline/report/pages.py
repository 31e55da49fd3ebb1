"""The report's pages: HTML and Markdown from templates. The only module that imports jinja2."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.colours import COLOURS
from pipeline.report.findings.method import best_on_test, describe, listed, percent, with_spread
from pipeline.report.report import Report
from pipeline.report.summary import METHODS

PAGES = ("report.html.j2", "report.md.j2")


@dataclass(frozen=True)
class Picture:
    """A figure for the pages."""

    name: str
    title: str
    caption: str
    svg: bytes

    @property
    def data_uri(self) -> str:
        """The figure inside its own address, so that the page needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


def environment() -> Environment:
    """Return what fills templates; HTML pages load nothing from elsewhere."""
    made = Environment(
        loader=PackageLoader("pipeline.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    made.filters |= {
        "percent": percent,
        "with_spread": with_spread,
        "describe": describe,
        "listed": listed,
    }
    return made


def render(
    template: str,
    report: Report,
    pictures: Sequence[Picture],
    charts: Mapping[str, Any] | None = None,
    script: str = "",
) -> str:
    """Fill `report.md.j2` or `report.html.j2`.

    Args:
        template: one of `PAGES`.
        report: what is told.
        pictures: figures, which every reader sees.
        charts: Vega-Lite charts that take the place of figures of the same name on a screen.
        script: the JavaScript that draws them; without it, pictures stay.
    """
    live = charts if charts and script else {}
    return (
        environment()
        .get_template(template)
        .render(
            report=report,
            pictures={picture.name: picture for picture in pictures},
            charts=live,
            script=script if live else "",
            labels=METHODS,
            colours=COLOURS,
            best_of=best_on_test,
        )
    )
