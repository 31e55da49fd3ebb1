"""The frozen text tower, run on learned contexts: exact, and without repeated work.

A causal tower with a shared context in front of the names computes the same states for
`SOS [context]` in every class. The shared path computes them once and lets every name attend
to their keys and values; names are packed by length, so no position is padding; and in the
last layer only the position that becomes the class embedding is computed. All three are
identities of a causal transformer, not approximations.

Shapes: S replicas, K classes, M context tokens, P = 1 + M prefix positions, L positions of a
name with its full stop and EOS, T = sum of L over classes, H heads, D text width, E joint
embedding width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger(__name__)

Path = Literal["shared", "full"]


@dataclass(frozen=True)
class NameGroup:
    """The K_g names of one length: rows `[start, start + count * length)` of the packed tokens."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        """The first row after this group."""
        return self.start + self.count * self.length


@dataclass(frozen=True)
class PackedNames:
    """The names of K classes, ready to follow a context of M tokens.

    Attributes:
        embeddings_TD: word plus position embeddings, sorted by length, without padding.
        groups: the runs of equal length in `embeddings_TD`.
        eos_K: row of each class's EOS in `embeddings_TD`, in the caller's class order.
        n_ctx: M, for which the positions were added.
    """

    embeddings_TD: Tensor
    groups: tuple[NameGroup, ...]
    eos_K: Tensor
    n_ctx: int


class TextTower(nn.Module):
    """A frozen open_clip text tower that encodes `SOS [context] name . EOS` for all classes.

    The path is decided by inspecting the tower: `shared` for causal towers that pool at EOS,
    `full` (every class on its own, all positions) for the others.
    """

    def __init__(self, text: Any) -> None:
        """Wrap an open_clip `CLIP` or `TextTransformer`; its weights are shared and frozen.

        Raises:
            ValueError: if the tower has no token table or transformer of its own to run on
                embeddings (Hugging Face text encoders), or appends a class token (CoCa).
        """
        super().__init__()
        missing = [part for part in ("token_embedding", "positional_embedding", "transformer",
                                     "ln_final") if not hasattr(text, part)]
        if missing or getattr(text, "cls_emb", None) is not None:
            raise ValueError(
                f"text tower {type(text).__name__}: cannot take learned contexts "
                f"({'no ' + ', '.join(missing) if missing else 'it appends a class token'}); "
                "allowed: open_clip's own text transformers"
            )
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.blocks: Any = text.transformer.resblocks
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", "argmax")
        self.attn_mask: Tensor | None = text.attn_mask
        self.path, reason = choose_path(self.attn_mask, self.pool, self.blocks)
        log.info("text path: %s (%s)", self.path, reason)
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """D."""
        return int(self.positional_embedding.shape[1])

    @property
    def context_length(self) -> int:
        """The number of positions, SOS and EOS included."""
        return int(self.positional_embedding.shape[0])

    def embed(self, tokens: list[int]) -> Tensor:
        """Return the word embeddings of token ids, `[len(tokens), D]`."""
        device = self.positional_embedding.device
        embeddings: Tensor = self.token_embedding(torch.tensor(tokens, device=device))
        return embeddings.float()

    def pack(self, names: list[list[int]], n_ctx: int) -> PackedNames:
        """Pack the token ids of K names (full stop included, SOS and EOS not) behind M tokens.

        Raises:
            ValueError: if a name is empty or does not fit behind the context.
        """
        eos = int(self.token_embedding.num_embeddings) - 1
        room = self.context_length - 2 - n_ctx
        for index, name in enumerate(names):
            if not 0 < len(name) <= room:
                raise ValueError(
                    f"class {index}: its name has {len(name)} tokens; allowed: 1 to {room} "
                    f"(context length {self.context_length}, n_ctx {n_ctx})"
                )
        lengths = torch.tensor([len(name) + 1 for name in names])
        order = torch.argsort(lengths, stable=True).tolist()
        groups: list[NameGroup] = []
        eos_rows = [0] * len(names)
        tokens: list[int] = []
        positions: list[int] = []
        for index in order:
            length = len(names[index]) + 1
            if groups and groups[-1].length == length:
                last = groups.pop()
                groups.append(NameGroup(last.start, last.count + 1, length))
            else:
                groups.append(NameGroup(len(tokens), 1, length))
            tokens += [*names[index], eos]
            positions += range(1 + n_ctx, 1 + n_ctx + length)
            eos_rows[index] = len(tokens) - 1
        embeddings_TD = self.embed(tokens) + self.positional_embedding[positions].float()
        eos_K = torch.tensor(eos_rows, device=embeddings_TD.device)
        return PackedNames(embeddings_TD, tuple(groups), eos_K, n_ctx)

    def forward(self, context_SMD: Tensor, names: PackedNames) -> Tensor:
        """Return the class embeddings of S contexts, `[S, K, E]`, not normalized.

        Equal to the plain full-length path of the tower up to rounding (tests/reference.py).
        """
        assert context_SMD.shape[1] == names.n_ctx, "names were packed for another n_ctx"
        sos_1D = self.embed([int(self.token_embedding.num_embeddings) - 2])
        sos_S1D = sos_1D.expand(len(context_SMD), 1, -1)
        position_PD = self.positional_embedding[: 1 + names.n_ctx]
        prefix_SPD = torch.cat([sos_S1D, context_SMD], dim=1) + position_PD
        encode = self._encode_shared if self.path == "shared" else self._encode_full
        eos_SKD = self.ln_final(encode(prefix_SPD, names))
        if self.text_projection is None:
            return eos_SKD
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(eos_SKD)
        return eos_SKD @ self.text_projection

    def _encode_shared(self, prefix_SPD: Tensor, names: PackedNames) -> Tensor:
        """Run prefix and names together, the prefix once; return `[S, K, D]` at EOS."""
        n_prefix = prefix_SPD.shape[1]
        names_STD = names.embeddings_TD.expand(len(prefix_SPD), -1, -1)
        x_SXD = torch.cat([prefix_SPD, names_STD], dim=1)
        for block in self.blocks[:-1]:
            x_SXD = shared_block(block, x_SXD, n_prefix, names)
        return last_block(self.blocks[-1], x_SXD, n_prefix, names)

    def _encode_full(self, prefix_SPD: Tensor, names: PackedNames) -> Tensor:
        """Run every class on its own over all positions; return `[S, K, D]` at the pooled one."""
        n_replicas, n_prefix, width = prefix_SPD.shape
        length = self.context_length
        pad_LD = self.embed([0] * length) + self.positional_embedding.float()
        rows_by_class: dict[int, Tensor] = {}
        for group in names.groups:
            rows = names.embeddings_TD[group.start : group.stop].view(group.count, group.length, -1)
            for row_LD in range(group.count):
                eos_row = group.start + (row_LD + 1) * group.length - 1
                rows_by_class[eos_row] = rows[row_LD]
        sequences = []
        for eos_row in names.eos_K.tolist():
            name_LD = rows_by_class[eos_row]
            tail_LD = pad_LD[n_prefix + len(name_LD) :]
            rest_LD = torch.cat([name_LD, tail_LD]).expand(n_replicas, -1, -1)
            sequences.append(torch.cat([prefix_SPD, rest_LD], dim=1))
        x_NLD = torch.stack(sequences, dim=1).view(-1, length, width)
        for block in self.blocks:
            x_NLD = block(x_NLD, attn_mask=self.attn_mask)
        x_SKLD = x_NLD.view(n_replicas, -1, length, width)
        if self.pool in ("first", "last"):
            return x_SKLD[:, :, 0 if self.pool == "first" else -1]
        at_eos = [n_prefix + len(rows_by_class[row]) - 1 for row in names.eos_K.tolist()]
        return x_SKLD[:, torch.arange(len(at_eos)), torch.tensor(at_eos)]


def choose_path(attn_mask: Tensor | None, pool: str, blocks: Any) -> tuple[Path, str]:
    """Return the path that a tower allows, and the reason."""
    if attn_mask is None:
        return "full", "the tower has no causal mask"
    above = torch.triu(torch.ones_like(attn_mask, dtype=torch.bool), diagonal=1)
    if not bool((attn_mask[above] == float("-inf")).all()):
        return "full", "the tower's attention mask is not causal"
    if pool not in ("argmax", "eos"):
        return "full", f"the tower pools its {pool} position, not EOS"
    if not all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        return "full", "the tower's blocks are not plain attention blocks"
    return "shared", "causal mask, pooled at EOS"


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Turn `[..., L, D]` into `[..., H, L, D / H]`."""
    return x.unflatten(-1, (n_heads, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """Turn `[..., H, L, D / H]` into `[..., L, D]`."""
    return x.transpose(-2, -3).flatten(-2)


def attend_names(
    query: Tensor, key_SXD: Tensor, value_SXD: Tensor, n_prefix: int, group: NameGroup, heads: int
) -> Tensor:
    """Let the names of one group attend to the shared prefix and to themselves.

    Args:
        query: `[S, K_g, Q, D]`, the last Q positions of each name.
        key_SXD, value_SXD: keys and values of the prefix, then of all packed names.
        n_prefix: P.
        group: which names.
        heads: H.

    Returns:
        `[S, K_g, Q, D]`.
    """
    n_queries, length = query.shape[2], group.length

    def gather(x_SXD: Tensor) -> Tensor:
        own = x_SXD[:, n_prefix + group.start : n_prefix + group.stop]
        own = own.unflatten(1, (group.count, length))
        prefix = x_SXD[:, None, :n_prefix].expand(-1, group.count, -1, -1)
        return split_heads(torch.cat([prefix, own], dim=2), heads).flatten(0, 1)

    mask = None
    if n_queries > 1:
        mask = torch.ones(n_queries, n_prefix + length, dtype=torch.bool, device=query.device)
        mask = mask.tril(n_prefix + length - n_queries)
    out = F.scaled_dot_product_attention(
        split_heads(query, heads).flatten(0, 1), gather(key_SXD), gather(value_SXD), attn_mask=mask
    )
    return merge_heads(out).unflatten(0, query.shape[:2])


def shared_block(block: Any, x_SXD: Tensor, n_prefix: int, names: PackedNames) -> Tensor:
    """Run one transformer block over `[prefix, packed names]`, `[S, P + T, D]`."""
    heads = block.attn.num_heads
    qkv = F.linear(block.ln_1(x_SXD), block.attn.in_proj_weight, block.attn.in_proj_bias)
    query_SXD, key_SXD, value_SXD = qkv.chunk(3, dim=-1)
    prefix = F.scaled_dot_product_attention(
        *(split_heads(x[:, :n_prefix], heads) for x in (query_SXD, key_SXD, value_SXD)),
        is_causal=True,
    )
    attended = [merge_heads(prefix)]
    for group in names.groups:
        query = query_SXD[:, n_prefix + group.start : n_prefix + group.stop]
        query = query.unflatten(1, (group.count, group.length))
        out = attend_names(query, key_SXD, value_SXD, n_prefix, group, heads)
        attended.append(out.flatten(1, 2))
    return finish_block(block, x_SXD, torch.cat(attended, dim=1))


def last_block(block: Any, x_SXD: Tensor, n_prefix: int, names: PackedNames) -> Tensor:
    """Run the last block at the EOS positions only: `[S, K, D]` in the caller's class order."""
    heads, width = block.attn.num_heads, x_SXD.shape[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    hidden_SXD = block.ln_1(x_SXD)
    key_value = F.linear(hidden_SXD, weight[width:], bias[width:] if bias is not None else None)
    key_SXD, value_SXD = key_value.chunk(2, dim=-1)
    rows = torch.cat(
        [torch.arange(g.start + g.length - 1, g.stop, g.length) for g in names.groups]
    ).to(x_SXD.device)
    query_SKD = F.linear(
        hidden_SXD[:, n_prefix + rows], weight[:width], bias[:width] if bias is not None else None
    )
    attended, done = [], 0
    for group in names.groups:
        query = query_SKD[:, done : done + group.count, None]
        attended.append(attend_names(query, key_SXD, value_SXD, n_prefix, group, heads)[:, :, 0])
        done += group.count
    eos_SKD = finish_block(block, x_SXD[:, n_prefix + rows], torch.cat(attended, dim=1))
    return eos_SKD[:, torch.searchsorted(rows, names.eos_K)]


def finish_block(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the output projection, both residual branches and the MLP of a block."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
