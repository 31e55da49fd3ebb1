"""The sequence of one class, by the rules of its text tower (open_clip's).

Shapes: X = P + L positions of a whole sequence, L of them behind the prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.clip.text.packing import PaddedNames, Tail

States = Callable[[list[int]], Tensor]
"""Word plus position embeddings of a whole sequence of token ids, `[X, D]`."""


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a caption.

    Attributes:
        sos: token ids in front.
        eos: token ids behind.
        pad: the id that fills the rest.
    """

    sos: tuple[int, ...]
    eos: tuple[int, ...]
    pad: int

    def check(self, names: list[list[int]], room: int) -> None:
        """Refuse names that are empty or too long.

        Raises:
            ValueError: naming the first.
        """
        for index, name in enumerate(names):
            if not 0 < len(name) <= room:
                raise ValueError(
                    f"class {index}: got a name of {len(name)} tokens; expected 1 to {room}"
                )


@dataclass(frozen=True)
class Layout:
    """The rules of a text tower for whole sequences of token ids.

    Attributes:
        frame: what the tower's tokenizer puts around a caption.
        context_length: positions, SOS and EOS included, an appended class token not.
        pool: which position becomes the class embedding.
        eos_id: the token that the pool `eos` looks for.
        pad_id: the token that masks of padding hide.
        appended: whether a class token is appended to every sequence (CoCa).
        use_pad_mask: whether padding is hidden; with an appended token it always is.
        correct_cls_mask: whether CoCa's mask is at its right position; see `seen`.
    """

    frame: Frame
    context_length: int
    pool: str
    eos_id: int
    pad_id: int
    appended: bool
    use_pad_mask: bool
    correct_cls_mask: bool

    @property
    def masked(self) -> bool:
        """Whether padding is hidden."""
        return self.appended or self.use_pad_mask

    def n_prefix(self, n_ctx: int) -> int:
        """Return P."""
        return len(self.frame.sos) + n_ctx

    def ids(self, name: list[int], n_ctx: int) -> list[int]:
        """Return the whole sequence of token ids; the context is held by any id but padding's."""
        context = [(*self.frame.sos, *name)[0]] * n_ctx
        ids = [*self.frame.sos, *context, *name, *self.frame.eos]
        return ids + [self.frame.pad] * (self.context_length - len(ids))

    def seen(self, ids: list[int]) -> list[bool]:
        """Return which positions others may attend to, an appended class token included.

        The mask of open_clip's CoCa hides padding; unless `correct_cls_mask`, it is off by one
        position, so that the first padding is seen, and the class token not even by itself.
        """
        if not self.masked:
            return [True] * len(ids)
        own = [token != self.pad_id for token in ids]
        if not self.appended:
            return own
        return [*own, True] if self.correct_cls_mask else [True, *own]

    def pooled(self, ids: list[int]) -> int:
        """Return the position that becomes the class embedding (open_clip's rules)."""
        if self.appended:
            return len(ids)
        rules = {"first": 0, "last": len(ids) - 1}
        if self.pool in rules:
            return rules[self.pool]
        return ids.index(self.eos_id if self.pool == "eos" else max(ids))

    def tail(self, name: list[int], n_ctx: int, states: States) -> Tail:
        """Return what follows the context, without what the pooled position cannot see."""
        ids, n_prefix = self.ids(name, n_ctx), self.n_prefix(n_ctx)
        pooled, seen = self.pooled(ids), self.seen(ids)
        words = n_prefix + len(name) + len(self.frame.eos)
        kept = [i for i in range(n_prefix, pooled + 1) if i < words or seen[i] or i == pooled]
        return Tail(states(ids)[kept], [seen[i] for i in kept], pooled)

    def pad(
        self,
        names: list[list[int]],
        n_ctx: int,
        longest: int,
        states: States,
        attn_mask: Tensor | None,
    ) -> PaddedNames:
        """Give every class a sequence of its own, `longest` positions behind the context.

        `attn_mask` is the tower's, additive, of all its positions.
        """
        n_prefix = self.n_prefix(n_ctx)
        sequences = [self.ids(name, n_ctx) for name in names]
        stop = n_prefix + longest + self.appended
        embeddings_KLD = torch.stack([states(ids)[n_prefix:stop] for ids in sequences])
        mask = None if attn_mask is None else attn_mask[:stop, :stop]
        if self.masked:
            seen_KX = torch.tensor([self.seen(ids)[:stop] for ids in sequences])
            hidden_KXX = torch.zeros(len(names), stop, stop).masked_fill_(
                ~seen_KX[:, None], float("-inf")
            )
            mask = hidden_KXX.to(embeddings_KLD.device) + (0 if mask is None else mask)
        pooled_K = torch.tensor([self.pooled(ids) for ids in sequences])
        return PaddedNames(embeddings_KLD, mask, pooled_K.to(embeddings_KLD.device), n_ctx)


def read_layout(text: Any, frame: Frame) -> Layout:
    """Return the rules of an open_clip `CLIP` or `TextTransformer`.

    Raises:
        ValueError: if the tower pools at a token that its tokenizer does not write.
    """
    appended = getattr(text, "cls_emb", None) is not None
    layout = Layout(
        frame=frame,
        context_length=int(text.positional_embedding.shape[0]) - appended,
        pool=str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))),
        eos_id=int(getattr(text, "text_eos_id", getattr(text, "eos_id", -1))),
        pad_id=int(getattr(text, "pad_id", 0)),
        appended=appended,
        use_pad_mask=bool(getattr(text, "use_pad_mask", False)),
        correct_cls_mask=bool(getattr(text, "correct_cls_mask", False)),
    )
    if layout.pool == "eos" and not appended and layout.eos_id not in frame.eos:
        raise ValueError(
            f"text tower {type(text).__name__}: pools at token {layout.eos_id}, but its "
            f"tokenizer closes captions with {list(frame.eos)}; expected a matching pair"
        )
    return layout
