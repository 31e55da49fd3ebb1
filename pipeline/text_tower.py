"""The frozen text tower, run on learned contexts: exact, and without repeated work.

A causal tower with a shared context in front of the names computes the same states for
`SOS [context]` in every class. The shared path computes them once and lets every name attend
to their keys and values. Names are packed, several to a row, so that hardly a position is
padding, and a mask keeps them apart. In the last layer only the position that becomes the
class embedding is computed. All three are identities of a causal transformer, not
approximations.

Shapes: S replicas, K classes, M context tokens, P = 1 + M prefix positions, R rows of W packed
positions, L positions of the longest name with its full stop and EOS, H heads, D text width,
E joint embedding width.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.packing import PackedNames, pack_rows

log = logging.getLogger(__name__)

Path = Literal["shared", "full"]


class TextTower(nn.Module):
    """A frozen open_clip text tower that encodes `SOS [context] name . EOS` for all classes.

    The path is decided by inspecting the tower: `shared` for causal towers that pool at EOS,
    `full` (every class on its own, all positions) for the others.
    """

    attn_mask: Tensor | None

    def __init__(self, text: Any) -> None:
        """Wrap an open_clip `CLIP` or `TextTransformer`; its weights are shared and frozen.

        Raises:
            ValueError: if the tower has no token table or transformer of its own to run on
                embeddings (Hugging Face text encoders), appends a class token (CoCa), or
                masks its padding.
        """
        super().__init__()
        missing = [
            part
            for part in ("token_embedding", "positional_embedding", "transformer", "ln_final")
            if not hasattr(text, part)
        ]
        reasons = [f"no {part}" for part in missing]
        if getattr(text, "cls_emb", None) is not None:
            reasons.append("it appends a class token")
        if getattr(text, "use_pad_mask", False):
            reasons.append("its mask depends on the padding")
        if reasons:
            raise ValueError(
                f"text tower {type(text).__name__}: cannot take learned contexts "
                f"({', '.join(reasons)}); allowed: open_clip's own text transformers"
            )
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.blocks: Any = text.transformer.resblocks
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.pool = str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")))
        self.pad_id = int(getattr(text, "pad_id", 0))
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
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
        lengths = [len(name) + 1 for name in names]
        rows, width = pack_rows(lengths)
        embeddings_RWD = torch.zeros(len(rows), width, self.width)
        owner_RW = torch.full((len(rows), width), -1)
        token_KL = torch.zeros(len(names), max(lengths), dtype=torch.long)
        for row, members in enumerate(rows):
            start = 0
            for index in members:
                stop = start + lengths[index]
                position = self.positional_embedding[1 + n_ctx : 1 + n_ctx + lengths[index]]
                name_LD = self.embed([*names[index], eos]) + position.float()
                embeddings_RWD[row, start:stop] = name_LD.cpu()
                owner_RW[row, start:stop] = index
                token_KL[index] = row * width + torch.arange(max(lengths)).add(start).clamp(
                    max=stop - 1
                )
                start = stop
        same_RWW = owner_RW[:, :, None] == owner_RW[:, None, :]
        prefix_RWP = torch.ones(len(rows), width, 1 + n_ctx, dtype=torch.bool)
        device = self.positional_embedding.device
        return PackedNames(
            embeddings_RWD=embeddings_RWD.to(device),
            mask_RWX=torch.cat([prefix_RWP, same_RWW.tril()], dim=-1).to(device),
            token_KL=token_KL.to(device),
            length_K=torch.tensor(lengths),
            n_ctx=n_ctx,
        )

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
        class_SKE: Tensor = self.ln_final(encode(prefix_SPD, names))
        if isinstance(self.text_projection, nn.Linear):
            class_SKE = self.text_projection(class_SKE)
        elif self.text_projection is not None:
            class_SKE = class_SKE @ self.text_projection
        return class_SKE

    def _encode_shared(self, prefix_SPD: Tensor, names: PackedNames) -> Tensor:
        """Run prefix and names together, the prefix once; return `[S, K, D]` at EOS."""
        n_prefix = prefix_SPD.shape[1]
        names_SXD = names.embeddings_RWD.flatten(0, 1).expand(len(prefix_SPD), -1, -1)
        x_SXD = torch.cat([prefix_SPD, names_SXD], dim=1)
        for block in self.blocks[:-1]:
            x_SXD = shared_block(block, x_SXD, n_prefix, names)
        return last_block(self.blocks[-1], x_SXD, n_prefix, names)

    def _encode_full(self, prefix_SPD: Tensor, names: PackedNames) -> Tensor:
        """Run every class on its own over all positions; return `[S, K, D]` at the pooled one."""
        (n_replicas, n_prefix, width), length = prefix_SPD.shape, self.context_length
        pad_LD = self.embed([self.pad_id] * length) + self.positional_embedding.float()
        flat_XD = names.embeddings_RWD.flatten(0, 1)
        sequences = []
        for token_L, n_tokens in zip(names.token_KL, names.length_K.tolist(), strict=True):
            rest_LD = torch.cat([flat_XD[token_L[:n_tokens]], pad_LD[n_prefix + n_tokens :]])
            rest_SLD = rest_LD.expand(n_replicas, -1, -1)
            sequences.append(torch.cat([prefix_SPD, rest_SLD], dim=1))
        x_NLD = torch.stack(sequences, dim=1).view(-1, length, width)
        for block in self.blocks:
            x_NLD = block(x_NLD, attn_mask=self.attn_mask)
        x_SKLD = x_NLD.view(n_replicas, -1, length, width)
        if self.pool in ("first", "last"):
            return x_SKLD[:, :, 0 if self.pool == "first" else -1]
        at_eos_K = n_prefix + names.length_K - 1
        return x_SKLD[:, torch.arange(len(at_eos_K)), at_eos_K]


def choose_path(attn_mask: Tensor | None, pool: str, blocks: Any) -> tuple[Path, str]:
    """Return the path that a tower allows, and the reason."""
    if attn_mask is None:
        return "full", "the tower has no causal mask"
    above = torch.triu(torch.ones_like(attn_mask, dtype=torch.bool), diagonal=1)
    hidden, seen = attn_mask[above] == float("-inf"), attn_mask[~above] == 0
    if not bool(hidden.all() and seen.all()):
        return "full", "the tower's attention mask is not causal"
    if pool not in ("argmax", "eos"):
        return "full", f"the tower pools its {pool} position, not EOS"
    if not all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        return "full", "the tower's blocks are not plain attention blocks"
    return "shared", "causal mask, pooled at EOS"


def split_heads(x_SNXD: Tensor, heads: int) -> Tensor:
    """Turn `[S, N, X, D]` into `[N, S H, X, D / H]`: a mask per N serves all S and H."""
    return torch.unflatten(x_SNXD, -1, (heads, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2)


def merge_heads(x: Tensor, n_replicas: int) -> Tensor:
    """Turn `[N, S H, X, D / H]` back into `[S, N, X, D]`."""
    return torch.unflatten(x, 1, (n_replicas, -1)).permute(1, 0, 3, 2, 4).flatten(3)


def attend(
    query_SNQD: Tensor, key_SNXD: Tensor, value_SNXD: Tensor, mask_NQX: Tensor, heads: int
) -> Tensor:
    """Return softmax attention `[S, N, Q, D]` under a mask that all replicas share."""
    query, key, value = (split_heads(x, heads) for x in (query_SNQD, key_SNXD, value_SNXD))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_NQX[:, None])
    return merge_heads(out, len(query_SNQD))


def behind_prefix(x_SXD: Tensor, n_prefix: int, own_SNLD: Tensor) -> Tensor:
    """Put the prefix in front of every sequence of `own_SNLD`: `[S, N, P + L, D]`."""
    prefix_SNPD = x_SXD[:, None, :n_prefix].expand(-1, own_SNLD.shape[1], -1, -1)
    return torch.cat([prefix_SNPD, own_SNLD], dim=2)


def shared_block(block: Any, x_SXD: Tensor, n_prefix: int, names: PackedNames) -> Tensor:
    """Run one transformer block over `[prefix, packed names]`, `[S, P + R W, D]`."""
    heads, shape_RW = block.attn.num_heads, names.embeddings_RWD.shape[:2]
    qkv = F.linear(block.ln_1(x_SXD), block.attn.in_proj_weight, block.attn.in_proj_bias)
    query_SXD, key_SXD, value_SXD = qkv.chunk(3, dim=-1)
    causal_1PP = torch.ones(1, n_prefix, n_prefix, dtype=torch.bool, device=x_SXD.device).tril()
    query, key, value = (x[:, None, :n_prefix] for x in (query_SXD, key_SXD, value_SXD))
    prefix_S1PD = attend(query, key, value, causal_1PP, heads)
    query_SRWD, key_SRWD, value_SRWD = (
        torch.unflatten(x[:, n_prefix:], 1, shape_RW) for x in (query_SXD, key_SXD, value_SXD)
    )
    names_SRWD = attend(
        query_SRWD,
        behind_prefix(key_SXD, n_prefix, key_SRWD),
        behind_prefix(value_SXD, n_prefix, value_SRWD),
        names.mask_RWX,
        heads,
    )
    attended_SXD = torch.cat([prefix_S1PD.flatten(1, 2), names_SRWD.flatten(1, 2)], dim=1)
    return finish_block(block, x_SXD, attended_SXD)


def last_block(block: Any, x_SXD: Tensor, n_prefix: int, names: PackedNames) -> Tensor:
    """Run the last block at the EOS positions only, `[S, K, D]`."""
    heads, width = block.attn.num_heads, x_SXD.shape[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    query_bias, key_value_bias = (None, None) if bias is None else (bias[:width], bias[width:])
    hidden_SXD = block.ln_1(x_SXD)
    eos_SKD = hidden_SXD[:, n_prefix + names.eos_K]
    query_SKD = F.linear(eos_SKD, weight[:width], query_bias)
    key_value = F.linear(hidden_SXD, weight[width:], key_value_bias)
    key_SXD, value_SXD = key_value.chunk(2, dim=-1)
    n_longest, device = names.token_KL.shape[1], x_SXD.device
    seen_KX = torch.arange(n_prefix + n_longest, device=device) < (
        n_prefix + names.length_K.to(device)[:, None]
    )
    attended_SKD = attend(
        query_SKD[:, :, None],
        behind_prefix(key_SXD, n_prefix, key_SXD[:, n_prefix + names.token_KL]),
        behind_prefix(value_SXD, n_prefix, value_SXD[:, n_prefix + names.token_KL]),
        seen_KX[:, None],
        heads,
    )[:, :, 0]
    return finish_block(block, x_SXD[:, n_prefix + names.eos_K], attended_SKD)


def finish_block(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the output projection, both residual branches and the MLP of a block."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
