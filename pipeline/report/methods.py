"""How methods are shown: their order, names, colours and shapes, the same in tables and charts.

Colours are from Okabe and Ito's palette and Brewer's Dark2, which colour-blind readers can tell
apart; shapes keep methods apart in black and white.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.training.refit import ZERO_SHOT

OWN_ZERO_SHOT = "zero_shot_own"
"""Zero-shot with the task's own template; `ZERO_SHOT` has the one that tuning starts from."""
STAR = (
    "M0,-1.5L0.35,-0.49L1.43,-0.46L0.57,0.19L0.88,1.21L0,0.6"
    "L-0.88,1.21L-0.57,0.19L-1.43,-0.46L-0.35,-0.49Z"
)
"""Vega's path of a shape."""


class Look(NamedTuple):
    """A method's name for people, its colour and its shape."""

    label: str
    colour: str = "#555555"
    shape: str = "circle"


METHODS = {
    ZERO_SHOT: Look("zero-shot", "#4d4d4d"),
    OWN_ZERO_SHOT: Look("zero-shot, own template", "#949494", "cross"),
    "coop": Look("CoOp", "#009e73", "square"),
    "rlp": Look("RLP", "#cc79a7", "triangle-up"),
    "residual": Look("residual", "#8c564b", "triangle-down"),
    "qcoop": Look("QCoOp", "#e69f00", "triangle-right"),
    "low_rank_quantized": Look("low-rank quantized", "#56b4e9", "triangle-left"),
    "kgcoop": Look("KgCoOp", "#a6761d", "cross"),
    "maple": Look("MaPLe", "#7570b3", "wedge"),
    "qmaple": Look("QMaPLe", "#e7298a", "arrow"),
    "compact": Look("compact", "#0072b2", "diamond"),
    "champion": Look("champion", "#d55e00", STAR),
    "coop_per_task": Look("CoOp, chosen per data set"),
    "compact_per_task": Look("compact, chosen per data set"),
    "champion_per_task": Look("champion, chosen per data set"),
}
"""Methods in the order of the tables."""


def look(method: str) -> Look:
    """Return how a method is shown; one without a name of its own shows its key."""
    return METHODS.get(method, Look(method))


def rank(method: str) -> tuple[int, str]:
    """Return the sort key of a method: those without a name come last."""
    names = list(METHODS)
    return (names.index(method) if method in names else len(names), method)
