"""Pretrain the embedded backbone: a tiny CLIP on emoji drawings and their names.

Shapes: N pictures or captions of a batch, H = W pixels, L tokens, D text width,
E joint embedding width, V rows of the token table.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.data.datasets.emoji import BACKGROUNDS, place_drawings, random_poses

CAPTION_TEMPLATES = (
    "a drawing of a {}.",
    "a drawing of a {}.",
    "a drawing of a {}.",
    "a picture of a {}.",
    "a photo of a {}.",
    "an emoji of a {}.",
    "an icon of a {}.",
    "a small {}.",
    "{}.",
    "{}",
)
"""Most captions are whole phrases, so that the words around a name mean something too."""


FULL_CAPTIONS = 0.2
"""Share of full captions among the pictures whose concept a batch shows once."""

STYLE_WORDS = {
    "emojione-v1": "glossy",
    "fluent": "shaded",
    "fluent-flat": "modern",
    "fxemoji": "flat",
    "noto-v1": "soft",
    "openmoji": "outlined",
}
"""What captions call a drawing style."""


def write_caption(name: str, tags: list[str], rng: random.Random) -> str:
    """Describe a drawing by its name or one of its tags."""
    kind = rng.random()
    if kind < 0.12 and tags:
        return rng.choice(CAPTION_TEMPLATES).format(rng.choice(tags))
    if kind < 0.20 and tags:
        return f"{name}, {rng.choice(tags)}"
    return rng.choice(CAPTION_TEMPLATES).format(name)


def write_full_caption(name: str, style: str, background: int) -> str:
    """Describe a drawing with its true style and background, in front of the name.

    Where a batch shows a concept twice, only these words tell the two captions apart. So the
    text tower learns to heed the words before a name, as CLIP heeds "a photo of a".
    """
    colour = list(BACKGROUNDS)[background]
    return f"a {STYLE_WORDS.get(style, style)} drawing on {colour} of a {name}."


def jitter_pictures(pictures_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Vary colour, contrast and sharpness, so that a drawing's style matters less.

    Args:
        pictures_N3HW: RGB in [0, 255].
        generator: the source of all randomness.

    Returns:
        The same shape, in [0, 255]: every picture gets a random saturation, contrast,
        brightness and tint; about one in six is also blurred, noisy, faded or grey.
    """
    count = len(pictures_N3HW)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    grey = pictures_N3HW.mean(dim=1, keepdim=True)
    saturation = uniform(0.4, 1.6, 1, 1, 1)
    kind = torch.randint(0, 24, (count, 1, 1, 1), generator=generator)
    saturation = torch.where(kind == 0, 0.0, saturation)
    out = grey + saturation * (pictures_N3HW - grey)
    contrast = torch.where(kind == 1, 0.5, uniform(0.7, 1.25, 1, 1, 1))
    out = (out - 128) * contrast + 128 + uniform(-25, 25, 1, 1, 1) + uniform(-10, 10, 3, 1, 1)
    out = torch.where(kind == 2, F.avg_pool2d(out, 3, stride=1, padding=1), out)
    noise = torch.randn(out.shape, generator=generator) * 14
    out = torch.where(kind == 3, out + noise, out)
    return out.clamp(0, 255)


def contrastive_loss(image_NE: Tensor, text_NE: Tensor, logit_scale: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy over the batch (arXiv 2103.00020, figure 3)."""
    logits_NN = logit_scale * F.normalize(image_NE, dim=-1) @ F.normalize(text_NE, dim=-1).T
    target_N = torch.arange(len(logits_NN))
    return (F.cross_entropy(logits_NN, target_N) + F.cross_entropy(logits_NN.T, target_N)) / 2


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def used_tokens(tokenize: Callable[[list[str]], Tensor], drawings: pd.DataFrame) -> Tensor:
    """Return the sorted ids of every token that a caption can hold, `[V]`."""
    words = drawings["name"].unique().tolist()
    words += sorted({tag for tags in drawings["tags"] for tag in tags})
    full = [
        write_full_caption("", style, background)
        for style in drawings["style"].unique()
        for background in range(len(BACKGROUNDS))
    ]
    frames = [template.replace("{}", " ") for template in (*CAPTION_TEMPLATES, "{}, {}")]
    used_V: Tensor = torch.unique(tokenize(words + full + frames))
    return used_V


class Batches:
    """Endless batches of pictures and captions, fixed by the seed."""

    def __init__(
        self, drawings: pd.DataFrame, drawings_N4HW: Tensor, config: PretrainConfig
    ) -> None:
        """Seed the draws."""
        self.drawings_N4HW = drawings_N4HW
        self.rows_of = [list(rows) for rows in drawings.groupby("codepoint").indices.values()]
        self.names = drawings["name"].tolist()
        self.styles = drawings["style"].tolist()
        self.tags = [list(tags) for tags in drawings["tags"]]
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rng = random.Random(config.seed)

    def draw(self) -> tuple[Tensor, list[str]]:
        """Return pictures `[N, 3, H, W]` in [0, 255] and one caption for each.

        A quarter of the pictures show a concept for the second time, in another style if there
        is one; both get full captions. All other concepts of the batch are distinct.
        """
        n_pairs = self.config.batch_size // 4
        n_concepts = min(self.config.batch_size - n_pairs, len(self.rows_of))
        concepts = self.rng.sample(self.rows_of, n_concepts)
        rows = [int(self.rng.choice(rows)) for rows in concepts]
        for first, candidates in list(zip(rows, concepts, strict=True))[:n_pairs]:
            others = [int(row) for row in candidates if row != first]
            rows.append(self.rng.choice(others or [first]))
        poses = random_poses(len(rows), self.generator)
        pictures = place_drawings(self.drawings_N4HW[rows], poses)
        size = (self.config.image_size, self.config.image_size)
        pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True)
        captions = []
        for place, (row, background) in enumerate(
            zip(rows, poses.background_P.tolist(), strict=True)
        ):
            paired = place < n_pairs or place >= n_concepts
            if paired or self.rng.random() < FULL_CAPTIONS:
                captions.append(write_full_caption(self.names[row], self.styles[row], background))
            else:
                captions.append(write_caption(self.names[row], self.tags[row], self.rng))
        return jitter_pictures(pictures, self.generator), captions


def fit_clip(
    model: Any,
    tokenize: Callable[[list[str]], Tensor],
    drawings: pd.DataFrame,
    drawings_N4HW: Tensor,
    config: PretrainConfig,
) -> Iterator[float]:
    """Train an open_clip CLIP in place and yield each step's loss.

    Only the token rows that captions use are trained; the others end as zeros, so that the
    weights compress. Captions are cut after the longest of the batch, which changes nothing
    in a causal tower.
    """
    torch.manual_seed(config.seed)
    batches = Batches(drawings, drawings_N4HW, config)
    used_V = used_tokens(tokenize, drawings)
    row_of = torch.zeros(model.vocab_size, dtype=torch.long)
    row_of[used_V] = torch.arange(len(used_V))
    full_table = model.token_embedding
    table_VD = full_table.weight[used_V]
    # torch leaves from_pretrained, and backward below, without types
    model.token_embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        table_VD, freeze=False
    )
    mean, std = (
        torch.tensor(model.visual.preprocess_cfg[key]).view(1, 3, 1, 1) * 255
        for key in ("mean", "std")
    )

    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    model.train()
    for step in range(config.steps):
        pictures, captions = batches.draw()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        with torch.autocast("cpu", torch.bfloat16):
            image_NE = model.encode_image((pictures - mean) / std)
            text_NE = encode_captions(model, tokenize(captions), row_of)
        loss = contrastive_loss(image_NE.float(), text_NE.float(), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        yield loss.item()

    with torch.no_grad():
        trained_VD = model.token_embedding.weight
        model.token_embedding = full_table
        full_table.weight.zero_()
        full_table.weight[used_V] = trained_VD
    model.eval()


def encode_captions(model: Any, tokens_NL: Tensor, row_of: Tensor) -> Tensor:
    """Return `[N, E]` text features, skipping the positions after the longest caption."""
    eos_N = tokens_NL.argmax(dim=-1)
    length = int(eos_N.max()) + 1
    x_NLD = model.token_embedding(row_of[tokens_NL[:, :length]])
    x_NLD = x_NLD + model.positional_embedding[:length]
    x_NLD = model.transformer(x_NLD, attn_mask=model.attn_mask[:length, :length])
    text_NE: Tensor = model.ln_final(x_NLD[torch.arange(len(x_NLD)), eos_N]) @ model.text_projection
    return text_NE
