"""Names packed several to a row, so that hardly a position of the text tower is padding.

Shapes: K classes, M context tokens, P = 1 + M prefix positions, R rows of W packed positions,
L positions of the longest name with its full stop and EOS, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

ROW_WIDTH = 64
"""Positions of a row: wide enough for one call to serve many names, narrow enough that the
attention which the mask throws away stays small beside the matrix products."""


@dataclass(frozen=True)
class PackedNames:
    """The names of K classes, ready to follow a context of M tokens.

    Attributes:
        embeddings_RWD: word plus position embeddings, several names to a row; the rest is zero.
        mask_RWX: what each position may attend to among the prefix and its row, X = P + W.
        token_KL: flat index `row * W + column` of each class's tokens; EOS repeats at the end.
        length_K: tokens of each class, full stop and EOS included.
        n_ctx: M, for which the positions were added.
    """

    embeddings_RWD: Tensor
    mask_RWX: Tensor
    token_KL: Tensor
    length_K: Tensor
    n_ctx: int

    @property
    def eos_K(self) -> Tensor:
        """The flat index of each class's EOS."""
        return self.token_KL[:, -1]


def fill_rows(lengths: list[int], width: int) -> list[list[int]]:
    """Deal items to rows of at most `width` positions, longest first into the first that fits."""
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        fits = (row for row, left in enumerate(room) if left >= lengths[item])
        row = next(fits, len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


def pack_rows(lengths: list[int]) -> tuple[list[list[int]], int]:
    """Deal items to as few rows of about `ROW_WIDTH` as hold them; return rows and width.

    The width is the smallest at which they fit, so that almost no position stays empty.
    """
    n_rows = -(-sum(lengths) // ROW_WIDTH)
    width = max(max(lengths), -(-sum(lengths) // n_rows))
    while len(rows := fill_rows(lengths, width)) > n_rows:
        width += 1
    return rows, width
