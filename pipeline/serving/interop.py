"""Prompts from and for other people's code: CoOp's checkpoints, plain class embeddings.

Shapes: M context tokens, D text width, K classes, E joint embedding width.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pipeline.clip.encoders import TextSide
from pipeline.clip.text.encoder import TextEncoder
from pipeline.core.errors import report_all
from pipeline.prompts.context import plain_context
from pipeline.prompts.stored import StoredPrompt, StoredTensor

UNUSED = ("token_prefix", "token_suffix", "token_midfix", "bias_vectors")
"""What CoOp's and KgCoOp's prompt learners save beside their context, and do not need."""
Named = Callable[..., Any] | tuple[Callable[..., Any], str]
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Inert:
    """Stands in for a class or function that a checkpoint names: keeps data, does nothing."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # never an Inert
        """Return the one type that torch's reader fills with items and with attributes."""
        return OrderedDict()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint's `state_dict`, or of a safetensors file.

    A checkpoint is read by torch's weights-only reader. CoOp's hold the objects of their
    schedule and optimizer as well, which that reader refuses: whatever class or function a file
    names is replaced by one that does nothing, so no code of it or named by it runs.

    Raises:
        ValueError: if the file is missing, damaged or neither.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        named: list[Named] = [(Inert, name) for name in get_unsafe_globals_in_checkpoint(path)]
        with safe_globals(named):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(checkpoint.get("state_dict", checkpoint))
        return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # torch raises many kinds on damaged files, with long texts
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(
            f"{path}: not a readable checkpoint ({reason}); allowed is a state_dict of tensors "
            "saved by torch.save, or .safetensors"
        ) from None


def load_coop(path: Path, tower: TextEncoder, init: str) -> StoredPrompt:
    """Read the context of a checkpoint of CoOp's public code.

    `state_dict` holds `ctx` [M, D], alone or below `prompt_learner.`, as CoOp (arXiv 2109.01134)
    and KgCoOp (arXiv 2303.13283) save it. It is kept in half precision, which rounds a context
    trained in float32 or bfloat16. The file does not say where the class name stood: a context
    means here what it meant there if CLASS_TOKEN_POSITION was `end`, that code's default.

    Args:
        path: the checkpoint, for instance `prompt_learner/model.pth.tar-50`.
        tower: of the backbone that the context was learned for.
        init: words that name a start; a full context does not need them.

    Raises:
        ValueError: if there is no such context, it is class-specific, not as wide as the tower
            or too long for it, needs more than itself (CoCoOp, MaPLe), or is too large for half
            precision.
    """
    tensors = {k.removeprefix("module."): v for k, v in load_tensors(path).items()}
    below = "prompt_learner."
    learner = {k.removeprefix(below): v for k, v in tensors.items() if k.startswith(below)}
    learner = learner or tensors
    if "ctx" not in learner:
        raise ValueError(f"{path}: found {sorted(tensors)[:5]}; allowed is a state_dict with ctx")
    more = sorted(set(learner) - {"ctx", *UNUSED})
    if more:
        raise ValueError(
            f"{path}: found {more[:5]} beside ctx; allowed is ctx alone, as CoOp and KgCoOp save "
            "it (the contexts of CoCoOp and MaPLe are not all of their prompts)"
        )
    try:
        return context_prompt(learner["ctx"], tower, init)
    except (ValueError, RuntimeError) as error:  # torch's own, if it is no plain tensor
        raise ValueError(f"{path}: ctx: {error}") from None


def context_prompt(context: Tensor, tower: TextEncoder, init: str) -> StoredPrompt:
    """Return a plain context `[M, D]` as a prompt of 16 bits.

    Raises:
        ValueError: if it does not fit the tower.
    """
    longest = tower.room(1)  # a name has a token at least
    shape = tuple(context.shape)
    if len(shape) == 3:
        raise ValueError(
            f"found a context of its own for each of {shape[0]} classes; allowed is one for all"
        )
    if len(shape) != 2 or shape[1] != tower.width or not 1 <= shape[0] <= longest:
        raise ValueError(
            f"found shape {list(shape)}; allowed is [1 to {longest}, {tower.width}] with this "
            "backbone"
        )
    if context.dtype not in DTYPES or context.layout != torch.strided:
        raise ValueError(f"found {context.dtype}, {context.layout}; allowed are {DTYPES}, dense")
    return StoredPrompt(init, shape[0], {"context_MD": StoredTensor.from_values(context)})


def save_coop(path: Path, prompt: StoredPrompt, text: TextSide) -> None:
    """Write a prompt as a checkpoint that CoOp's public code loads.

    `ctx` is the merged context `[M, D]`, float32. CoOp's `load_model` finds it as
    `<model-dir>/prompt_learner/model.pth.tar-<load-epoch>` and needs N_CTX = M and
    CLASS_TOKEN_POSITION `end`.

    Raises:
        ValueError: if the prompt is coupled to the image tower.
    """
    context_MD = plain_context(text.init_MD(prompt.n_ctx).cpu(), prompt.values())
    checkpoint = {"state_dict": {"ctx": context_MD.float().clone()}, "epoch": 0}
    with path.open("wb") as file:  # given a path, torch would write its name into the file
        torch.save(checkpoint, file)


def class_embeddings(prompt: StoredPrompt, text: TextSide, class_names: Sequence[str]) -> Tensor:
    """Return unit class embeddings `[K, E]`, float32, on the CPU.

    Raises:
        ValueError: if a name is too long for the tower, or the prompt is coupled to the image
            tower.
    """
    plain_context(text.init_MD(prompt.n_ctx).cpu(), prompt.values())
    text.check_names(prompt.n_ctx)
    names = text.pack(class_names, prompt.n_ctx)
    class_KE = text.class_embeddings([prompt], names)[0].float()
    return F.normalize(class_KE, dim=-1).cpu()


def save_embeddings(
    path: Path, prompt: StoredPrompt, text: TextSide, class_names: Sequence[str], fingerprint: str
) -> None:
    """Write a zero-shot classifier for any code that has the image tower.

        logits = image_features @ class_embeddings.T * logit_scale

    with unit image features. The file is safetensors: `class_embeddings` [K, E], unit rows,
    float32; its metadata has `about`: JSON with `class_names`, `logit_scale`, `fingerprint`.

    Raises:
        ValueError: if a name is too long for the tower, or the prompt is coupled to the image
            tower.
    """
    about = {
        "class_names": list(class_names),
        "logit_scale": text.logit_scale,
        "fingerprint": fingerprint,
    }
    tensors = {"class_embeddings": class_embeddings(prompt, text, class_names)}
    path.write_bytes(safetensors.torch.save(tensors, {"about": json.dumps(about)}))


def check_class_names(class_names: Sequence[object]) -> tuple[str, ...]:
    """Return class names that can be told apart.

    Raises:
        ValueError: if there is none, one is no text, or one stands twice.
    """
    names = tuple(name for name in class_names if isinstance(name, str) and name.strip())
    if not names or len(names) < len(class_names):
        raise ValueError(f"classes: found {list(class_names)!r:.200}; allowed are names")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    report_all("classes: allowed is every name once", [repr(name) for name in repeated])
    return names
