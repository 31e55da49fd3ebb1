"""From the factors of a prompt to its context; all that a stored prompt needs."""

from __future__ import annotations

from torch import Tensor


def low_rank_context(init_MD: Tensor, left_MR: Tensor, right_RD: Tensor) -> Tensor:
    """Add a low-rank update to a frozen context.

    context = init + U V   (RLP, arXiv 2312.10813; U = left, V = right)

    Args:
        init_MD: `[M, D]` word embeddings of the template, never trained.
        left_MR: `[M, R]` factor.
        right_RD: `[R, D]` factor.

    Returns:
        `[M, D]`; differs from `init_MD` by a matrix of rank at most R.

    Raises:
        ValueError: if R is 0 or larger than min(M, D).
    """
    rank, largest = left_MR.shape[1], min(init_MD.shape)
    if not 1 <= rank <= largest:
        raise ValueError(f"rank: got {rank}; expected 1 to min(n_ctx, width) = {largest}")
    return init_MD + left_MR @ right_RD


def init_tokens(words: list[int], n_ctx: int) -> list[int]:
    """Fit the token ids of the template's words to M tokens.

    The last word stays next to the name: a short context keeps the end of the template, a
    long one repeats it from the front. Nothing is random, so the template's text reproduces the
    start, which costs no storage.
    """
    repeats = -(-n_ctx // len(words))
    return (words * repeats)[-n_ctx:]


def merge(init_MD: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return the plain context `[M, D]` of a prompt's factors, or of the template without any."""
    if not values:
        return init_MD
    if "context_MD" in values:
        return values["context_MD"]
    return low_rank_context(init_MD, values["left_MR"], values["right_RD"])


def plain_context(init_MD: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return the context `[M, D]` of a prompt that is nothing more than its context.

    Raises:
        ValueError: if the prompt is coupled to the image tower.
    """
    if "coupling_JWD" in values:
        raise ValueError(
            f"a prompt of {', '.join(values)} has no plain context: it goes into both towers"
        )
    return merge(init_MD, values)
