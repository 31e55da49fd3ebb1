"""The frozen backbone: any open_clip model. Only this module and `images` import open_clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.config import BUDGET_BYTES, BackboneConfig
from pipeline.clip.encoders import TextSide
from pipeline.clip.images import ImageEncoder, load_model, wrap_images
from pipeline.clip.text.encoder import TextEncoder
from pipeline.clip.text.huggingface import WholeTower
from pipeline.clip.text.layout import Frame
from pipeline.clip.text.tower import TextTower
from pipeline.clip.vision_tower import VisionTower


@dataclass(frozen=True)
class Backbone(ImageEncoder):
    """A frozen vision-language model.

    Attributes:
        text: the text tower, for learned contexts.
        tokenizer: of captions.
        logit_scale: factor on cosine similarities.
    """

    text: TextEncoder
    tokenizer: Any
    logit_scale: float

    @torch.inference_mode()
    def encode_captions(self, captions: list[str]) -> Tensor:
        """Return unit features `[len(captions), E]` by the model's own full-length path."""
        tokens_KL = self.tokenizer(captions).to(self.device)
        return F.normalize(self.model.encode_text(tokens_KL).float(), dim=-1)

    def text_side(
        self, init: str, class_names: Iterable[str], with_vision: bool = False
    ) -> TextSide:
        """Return what fits need: names are tokenized as `name .`, underscores as spaces.

        Args:
            init: the words that start a context.
            class_names: of all tasks.
            with_vision: whether prompts also go into the image tower.

        Raises:
            ValueError: if the tokenizer joins a name with the word before it, or the image tower
                cannot read prompts.
        """
        words = tokenize(self.tokenizer, init)
        name_tokens = {}
        for name in class_names:
            caption = tokenize(self.tokenizer, f"{init} {name.replace('_', ' ')}.")
            if caption[: len(words)] != words:
                raise ValueError(
                    f"class name {name!r}: the tokenizer joins it with the last word of {init!r}; "
                    "expected a name that begins with a word of its own"
                )
            name_tokens[name] = caption[len(words) :]
        vision = self.vision_side() if with_vision else None
        return TextSide(self.text, self.logit_scale, words, name_tokens, vision)

    def forget_words(self, limit: int = 50_000) -> None:
        """Empty the tokenizer's cache of words, which otherwise grows with every new one.

        open_clip 3.3 has no bound on it. One there would replace this.
        """
        words = getattr(self.tokenizer, "cache", None)
        if isinstance(words, dict) and len(words) > limit:
            special = {word: token for word, token in words.items() if word == token}
            self.tokenizer.cache = special

    def vision_side(self, budget_bytes: int = BUDGET_BYTES) -> VisionTower:
        """Return the image tower in the form that reads prompts, a new one at every call.

        Raises:
            ValueError: if it cannot read any; text prompts do not need it.
        """
        return VisionTower(self.model.visual, budget_bytes).to(self.device)


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load both encoders.

    Raises:
        ValueError: if the model or its weights are not there.
    """
    model, tokenizer = load_model(config)
    budget_bytes = int(config.text_budget_gb * 2**30)
    return wrap_model(model, tokenizer, config.torch_device(), budget_bytes)


def wrap_model(
    model: Any, tokenizer: Any, device: torch.device, budget_bytes: int = BUDGET_BYTES
) -> Backbone:
    """Return both encoders of an open_clip model."""
    images = wrap_images(model, device)
    return Backbone(
        **vars(images),
        text=wrap_text(getattr(model, "text", model), tokenizer, budget_bytes).to(device),
        tokenizer=tokenizer,
        logit_scale=float(model.logit_scale.exp()),
    )


def wrap_text(text: Any, tokenizer: Any, budget_bytes: int) -> TextEncoder:
    """Return the text tower in the form that runs it best.

    Raises:
        ValueError: if no form does.
    """
    frame = caption_frame(tokenizer)
    if hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        return WholeTower(text, frame, int(tokenizer.context_length), budget_bytes)
    return TextTower(text, frame, budget_bytes)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, without what the tokenizer puts around it."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return [int(token) for token in tokenizer.encode(text)]
    plain = tokenizer.tokenizer.encode(tokenizer.clean_fn(text), add_special_tokens=False)
    return [int(token) for token in plain]


def caption_frame(tokenizer: Any) -> Frame:
    """Return what a tokenizer puts around a caption."""
    caption = "a photo"
    own, row = tokenize(tokenizer, caption), tokenizer([caption])[0].tolist()
    start = next(i for i in range(len(row)) if row[i : i + len(own)] == own)
    rest, pad = row[start + len(own) :], row[-1]
    while rest and rest[-1] == pad:
        rest.pop()
    return Frame(tuple(row[:start]), tuple(rest), pad)
