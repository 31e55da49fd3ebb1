"""Both encoders as fits need them: the text tower with tokenized names, and the image tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.text.encoder import TextEncoder
from pipeline.clip.vision_tower import VisionTower
from pipeline.core.errors import report_all
from pipeline.prompts.context import init_tokens, merge
from pipeline.prompts.coupling import Inputs, couple, stack
from pipeline.prompts.stored import StoredPrompt


@dataclass(frozen=True)
class TextSide:
    """What a fit needs of a backbone, in one object that is sent to workers.

    Attributes:
        tower: the frozen text tower.
        logit_scale: factor on cosine similarities.
        init_words: token ids of the words that start a context.
        name_tokens: token ids of every class name, full stop included.
        vision: the frozen image tower, if prompts go into it.
    """

    tower: TextEncoder
    logit_scale: float
    init_words: list[int]
    name_tokens: dict[str, list[int]]
    vision: VisionTower | None = None

    def to(self, device: torch.device | str) -> None:
        """Move the towers."""
        self.tower.to(device)
        if self.vision is not None:
            self.vision.to(device)

    def check_depth(self, depth: int) -> None:
        """Refuse prompts in more layers than both towers have.

        Raises:
            ValueError: naming the depth and what is allowed.
        """
        n_text = self.tower.n_blocks
        n_vision = len(self.vision.blocks) if self.vision is not None else 0
        if depth > min(n_text, n_vision):
            raise ValueError(
                f"prompt.depth: got {depth}; expected 0 to {min(n_text, n_vision)}: the text tower "
                f"reads prompts in {n_text} layers, the image tower in {n_vision}"
            )

    def init_MD(self, n_ctx: int) -> Tensor:
        """Return the embeddings `[M, D]` that start a context of M tokens."""
        return self.tower.embed(init_tokens(self.init_words, n_ctx))

    def pack(self, class_names: Sequence[str], n_ctx: int) -> Any:
        """Pack class names behind a context of M tokens."""
        return self.tower.pack([self.name_tokens[name] for name in class_names], n_ctx)

    def check_names(self, n_ctx: int) -> None:
        """Refuse class names that do not fit behind a context of M tokens.

        Raises:
            ValueError: naming every such class.
        """
        room = self.tower.room(n_ctx)
        problems = [
            f"{name!r}: got {len(tokens)} tokens; expected at most {room}"
            for name, tokens in self.name_tokens.items()
            if len(tokens) > room
        ]
        report_all(
            f"class names too long for n_ctx {n_ctx} and a context length of "
            f"{self.tower.context_length}",
            problems,
        )

    @torch.no_grad()
    def template_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Return the unit class embeddings `[K, E]` of the template's words alone."""
        n_ctx = len(self.init_words)
        class_SKE = self.tower(self.init_MD(n_ctx)[None], self.pack(class_names, n_ctx))
        return F.normalize(class_SKE[0], dim=-1)

    def inputs(self, prompts: Sequence[StoredPrompt]) -> Inputs:
        """Return what the towers read of S stored prompts of one kind."""
        init_MD = self.init_MD(prompts[0].n_ctx)
        inputs = []
        for prompt in prompts:
            values = {name: value.to(init_MD.device) for name, value in prompt.values().items()}
            inputs.append(couple(merge(init_MD, values), values))
        return stack(inputs)

    @torch.no_grad()
    def class_embeddings(self, prompts: Sequence[StoredPrompt], names: Any) -> Tensor:
        """Return the class embeddings `[S, K, E]` of stored prompts."""
        inputs = self.inputs(prompts)
        embeddings: Tensor = self.tower(inputs.context_MD, names, inputs.deep_IMD)
        return embeddings
