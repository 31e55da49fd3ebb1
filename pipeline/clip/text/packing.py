"""Class names as the text tower reads them: packed into rows, or padded.

Shapes: L positions of the longest name with what closes it, X = P + L or P + Z positions that one
position may attend to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

ROW_WIDTH = 64
"""Positions of a row: wide enough for one call to serve many names, narrow enough that the
masked part of the attention costs little beside the matrix products."""


@dataclass(frozen=True)
class Tail:
    """What follows the context in a class's sequence: its name and what closes it.

    Attributes:
        embedding_LD: word plus position embeddings.
        seen_L: whether later positions may attend to it; the tower's mask decides.
        pooled: the position of the whole sequence that becomes the class embedding.
    """

    embedding_LD: Tensor
    seen_L: list[bool]
    pooled: int


@dataclass(frozen=True)
class PackedNames:
    """Names packed several to a row, so that hardly a position is padding.

    Classes are in the order of their rows; `order_K` restores the caller's.

    Attributes:
        embeddings_YZD: tails, several to a row; the rest is zero.
        mask_YZX: what each position may attend to among the prefix and its row.
        token_KL: flat index `row * W + column` of each class's tokens; the last one repeats.
        seen_KX: what the last token of each class may attend to.
        order_K: the place of each of the caller's classes among the rows' classes.
        first_Y: index of each row's first class, and K at the end.
        n_ctx: M, for which the positions were added.
        first_qkv: `[Y, Z, 3 D]`, their queries, keys and values in the first block.
    """

    embeddings_YZD: Tensor
    mask_YZX: Tensor
    token_KL: Tensor
    seen_KX: Tensor
    order_K: Tensor
    first_Y: tuple[int, ...]
    n_ctx: int
    first_qkv: Tensor | None = None

    @property
    def last_K(self) -> Tensor:
        """The flat index `[K]` of the token that becomes each class's embedding."""
        return self.token_KL[:, -1]

    @property
    def n_parts(self) -> int:
        """Into how many parts the names can be cut: rows."""
        return len(self.embeddings_YZD)

    @property
    def n_positions(self) -> int:
        """Positions that the tower computes for them."""
        return self.embeddings_YZD.shape[0] * self.embeddings_YZD.shape[1]

    def part(self, start: int, stop: int) -> PackedNames:
        """Return the names of some rows, in the order of the rows."""
        first, last = self.first_Y[start], self.first_Y[min(stop, self.n_parts)]
        return replace(
            self,
            embeddings_YZD=self.embeddings_YZD[start:stop],
            mask_YZX=self.mask_YZX[start:stop],
            first_qkv=None if self.first_qkv is None else self.first_qkv[start:stop],
            token_KL=self.token_KL[first:last] - start * self.embeddings_YZD.shape[1],
            seen_KX=self.seen_KX[first:last],
            order_K=torch.arange(last - first, device=self.order_K.device),
            first_Y=tuple(index - first for index in self.first_Y[start : stop + 1]),
        )


@dataclass(frozen=True)
class PaddedNames:
    """Every class on its own, all of equal length, for towers that cannot share a prefix.

    Attributes:
        embeddings_KLD: tails, padded.
        mask: additive, `[X, X]` for all classes or `[K, X, X]`; None if there is none.
        pooled_K: the position that becomes the class embedding, among all X.
        n_ctx: M, for which the positions were added.
    """

    embeddings_KLD: Tensor
    mask: Tensor | None
    pooled_K: Tensor
    n_ctx: int

    @property
    def order_K(self) -> Tensor:
        """The place `[K]` of each class: the caller's order."""
        return torch.arange(len(self.pooled_K), device=self.pooled_K.device)

    @property
    def n_parts(self) -> int:
        """Into how many parts the names can be cut: classes."""
        return len(self.embeddings_KLD)

    @property
    def n_positions(self) -> int:
        """Positions that the tower computes for them."""
        return self.embeddings_KLD.shape[0] * self.embeddings_KLD.shape[1]

    def part(self, start: int, stop: int) -> PaddedNames:
        """Return some of the classes."""
        own = self.mask is not None and self.mask.ndim == 3
        return replace(
            self,
            embeddings_KLD=self.embeddings_KLD[start:stop],
            mask=self.mask[start:stop] if own and self.mask is not None else self.mask,
            pooled_K=self.pooled_K[start:stop],
        )


Names = PackedNames | PaddedNames


def fill_rows(lengths: list[int], width: int) -> list[list[int]]:
    """Put items into rows of at most `width` positions, longest first into the first that fits."""
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
    """Put items into as few rows of about `ROW_WIDTH` as possible; return rows and width.

    The width is the smallest at which they fit, so that almost no position is empty.
    """
    n_rows = -(-sum(lengths) // ROW_WIDTH)
    width = max(max(lengths), -(-sum(lengths) // n_rows))
    while len(rows := fill_rows(lengths, width)) > n_rows:
        width += 1
    return rows, width


def pack_tails(tails: list[Tail], n_prefix: int, n_ctx: int) -> PackedNames:
    """Pack tails into rows. The last token of each must be the pooled one."""
    rows, width = pack_rows([len(tail.seen_L) for tail in tails])
    longest, device = max(len(tail.seen_L) for tail in tails), tails[0].embedding_LD.device
    embeddings_YZD = torch.zeros(len(rows), width, tails[0].embedding_LD.shape[1])
    owner_YZ = torch.full((len(rows), width), -1)
    seen_YZ = torch.ones(len(rows), width, dtype=torch.bool)
    token_KL = torch.zeros(len(tails), longest, dtype=torch.long)
    seen_KX = torch.zeros(len(tails), n_prefix + longest, dtype=torch.bool)
    seen_KX[:, :n_prefix] = True
    order_K = torch.zeros(len(tails), dtype=torch.long)
    place = 0
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            tail = tails[index]
            stop = start + len(tail.seen_L)
            embeddings_YZD[row, start:stop] = tail.embedding_LD.cpu()
            owner_YZ[row, start:stop] = index
            seen_YZ[row, start:stop] = torch.tensor(tail.seen_L)
            columns_L = (torch.arange(longest) + start).clamp(max=stop - 1)
            token_KL[place] = row * width + columns_L
            seen_KX[place, n_prefix : n_prefix + len(tail.seen_L)] = torch.tensor(tail.seen_L)
            order_K[index] = place
            place += 1
            start = stop
    same_YZZ = (owner_YZ[:, :, None] == owner_YZ[:, None, :]) & seen_YZ[:, None, :]
    prefix_YZP = torch.ones(len(rows), width, n_prefix, dtype=torch.bool)
    return PackedNames(
        embeddings_YZD=embeddings_YZD.to(device),
        mask_YZX=torch.cat([prefix_YZP, same_YZZ.tril()], dim=-1).to(device),
        token_KL=token_KL.to(device),
        seen_KX=seen_KX.to(device),
        order_K=order_K.to(device),
        first_Y=(0, *accumulate(len(members) for members in rows)),
        n_ctx=n_ctx,
    )
