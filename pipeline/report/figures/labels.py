"""Where a figure's labels go, so that they cover no point, no line and no other label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

AROUND = [
    (distance * math.cos(turn * math.pi / 8), distance * math.sin(turn * math.pi / 8))
    for distance in (12, 24, 40, 60, 85)
    for turn in range(16)
]
"""Places of a label around its point, in points."""
HALO = [withStroke(linewidth=3, foreground="white")]


def canvas(axes: Axes) -> RendererBase:
    """Lay the figure out and return what measures its texts."""
    figure = axes.get_figure(root=True)
    assert figure
    figure.draw_without_rendering()
    drawn = FigureCanvasAgg(figure)
    renderer: RendererBase = drawn.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib's
    return renderer


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[str, tuple[float, float], str]],
    points: Sequence[tuple[float, float]],
    boxes: Sequence[Bbox] = (),
) -> None:
    """Write each label (text, place, colour) where it covers no point, label or box.

    Of the places around its point, a label takes the nearest with the least covered.
    """
    renderer = canvas(axes)
    dots, taken = axes.transData.transform(points), list(boxes)
    room, scale = axes.get_window_extent(renderer), renderer.points_to_pixels(1.0)
    for text, at, colour in labels:
        look: Any = {"color": colour, "fontweight": "bold", "fontsize": 9.5, "va": "center"}
        probe = axes.text(*at, text, **look)
        size = probe.get_window_extent(renderer)
        probe.remove()
        corner = axes.transData.transform(at)
        candidates = [
            (*place, beside(corner + np.array(place) * scale, place[0], size)) for place in AROUND
        ]
        x, y, box = min(
            candidates, key=lambda c: covered(c[2], room, taken, dots) + math.hypot(*c[:2])
        )
        taken.append(box)
        leader: Any = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 5}
        axes.annotate(
            text,
            at,
            (x, y),
            textcoords="offset points",
            ha="left" if x > 1 else "right" if x < -1 else "center",
            zorder=5,
            path_effects=HALO,
            arrowprops=leader if math.hypot(x, y) > 20 else None,
            **look,
        )


def beside(corner: np.ndarray, side: float, size: Bbox) -> Bbox:
    """Return the box of a text that starts, ends (`side` < 0) or is centred at a pixel."""
    shift = 0 if side > 1 else -size.width if side < -1 else -size.width / 2
    left, bottom = float(corner[0]) + shift, float(corner[1]) - size.height / 2
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def covered(box: Bbox, room: Bbox, taken: Sequence[Bbox], dots: np.ndarray) -> float:
    """Return how bad a place is: outside is worst, then on a text, then on a point."""
    inside = room.x0 < box.x0 and box.x1 < room.x1 and room.y0 < box.y0 and box.y1 < room.y1
    texts = sum(bool(box.padded(4).overlaps(other)) for other in taken)
    return 1e5 * (not inside) + 1e4 * texts + 1e2 * int(box.padded(4).count_contains(dots))
