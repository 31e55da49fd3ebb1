"""Pretrain the embedded backbone: a tiny CLIP on emoji drawings and their names.

Shapes: N pictures or captions of a batch, H = W pixels, L tokens, D text width,
E joint embedding width, V rows of the token table.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.data.datasets.conditions import KINDS, NAMED, apply_conditions
from pipeline.data.datasets.emoji import place_drawings, random_poses

NOUNS = ("drawing", "drawing", "picture", "photo", "image", "emoji", "icon")

LEADS = (
    "this is",
    "here is",
    "look,",
    "now",
    "you see",
    "here we have",
    "look at this:",
    "it is just",
    "there it is,",
    "what you see is",
    "on the screen is",
    "they sent us",
    "in this image there is",
    "this one looks like",
    "someone has made",
    "we were given here",
    "in this small image there is",
    "what we can see here is",
    "if you look at it, this is",
    "as you can see here, this is",
    "on the page in front of you is",
    "the next one in the long row is",
)
"""Words without a meaning of their own: a condition can be named anywhere before the name."""

WITH_LEAD = 0.5
WITH_TAG = 0.1
WITHOUT_FRAME = 0.15
PAIRS = 0.3
"""Shares of captions with a lead, with a tag for the name, of plain pictures with the bare name;
and of the conditions of a batch that are two at once."""


def write_caption(name: str, tags: list[str], conditions: Sequence[str], rng: random.Random) -> str:
    """Describe a picture by the conditions it is shown under and its name or one of its tags.

    Where a batch shows a concept twice, only the conditions tell the two captions apart. So the
    text tower learns to use the words before a name.
    """
    subject = rng.choice(tags) if tags and rng.random() < WITH_TAG else name
    if not conditions and rng.random() < WITHOUT_FRAME:
        return subject
    shown = rng.sample(list(conditions), len(conditions))  # in any order
    words = " ".join(["a", *shown, rng.choice(NOUNS), "of a", subject])
    lead = f"{rng.choice(LEADS)} " if rng.random() < WITH_LEAD else ""
    return f"{lead}{words}."


def draw_conditions(rng: random.Random) -> tuple[str, ...]:
    """Draw one named condition, or two of different kinds."""
    kinds = rng.sample(KINDS, 2 if rng.random() < PAIRS else 1)
    kinds.sort(key=KINDS.index)
    return tuple(rng.choice(list(kind)) for kind in kinds)


def jitter_pictures(pictures_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Vary colour, contrast and sharpness, so that a drawing's style matters less.

    Args:
        pictures_N3HW: RGB in [0, 255].
        generator: the source of all randomness.

    Returns:
        The same shape, in [0, 255]: every picture gets a random saturation, contrast,
        brightness and tint; one in 24 is noisy.
    """
    count = len(pictures_N3HW)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    grey = pictures_N3HW.mean(dim=1, keepdim=True)
    saturation = uniform(0.4, 1.6, 1, 1, 1)
    out = grey + saturation * (pictures_N3HW - grey)
    contrast = uniform(0.7, 1.25, 1, 1, 1)
    out = (out - 128) * contrast + 128 + uniform(-25, 25, 1, 1, 1) + uniform(-10, 10, 3, 1, 1)
    noisy = torch.randint(0, 24, (count,), generator=generator) == 0
    noise = torch.randn((int(noisy.sum()), *out.shape[1:]), generator=generator)
    out[noisy] += noise * 14
    return out.clamp(0, 255)


def contrastive_loss(image_NE: Tensor, text_NE: Tensor, logit_scale: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy over the batch (arXiv 2103.00020, figure 3)."""
    logits_NN = logit_scale * F.normalize(image_NE, dim=-1) @ F.normalize(text_NE, dim=-1).T
    target_N = torch.arange(len(logits_NN))
    return (F.cross_entropy(logits_NN, target_N) + F.cross_entropy(logits_NN.T, target_N)) / 2


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Return the rate of a step: linear warm-up, a plateau, a linear decay to zero.

    A run that is made longer resumes on the plateau: its steps so far remain valid.
    """
    decay_steps = max(1, round(config.decay * config.steps))
    warm_up = (step + 1) / max(1, config.warmup_steps)
    return config.lr * min(1.0, warm_up, (config.steps - step) / decay_steps)


def used_tokens(tokenize: Callable[[list[str]], Tensor], drawings: pd.DataFrame) -> Tensor:
    """Return the sorted ids of every token that a caption can hold, `[V]`."""
    words = drawings["name"].unique().tolist()
    words += sorted({tag for tags in drawings["tags"] for tag in tags})
    names = [f"a {word}." for word in words]
    frames = [f"{lead} a {' '.join(NAMED)} of a" for lead in LEADS] + [" ".join(NOUNS)]
    used_V: Tensor = torch.unique(tokenize(words + names + frames))
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
        self.tags = [list(tags) for tags in drawings["tags"]]
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rng = random.Random(config.seed)

    def draw(self) -> tuple[Tensor, list[str]]:
        """Return pictures `[N, 3, H, W]` in [0, 255] and one caption for each.

        A batch has few conditions, plain being one, and shows each of its concepts under two of
        them: so every caption has negatives that share its name and others that share its
        conditions.
        """
        n_concepts = min(self.config.batch_size // 2, len(self.rows_of))
        concepts = self.rng.sample(self.rows_of, n_concepts) * 2
        rows = [int(self.rng.choice(rows)) for rows in concepts]
        palette: list[tuple[str, ...]] = [()]
        while len(palette) < self.config.conditions:
            drawn = draw_conditions(self.rng)
            palette += [drawn] if drawn not in palette else []
        pairs = [self.rng.sample(range(len(palette)), 2) for _ in range(n_concepts)]
        shown_N = torch.tensor([first for first, _ in pairs] + [second for _, second in pairs])
        poses = random_poses(len(rows), self.generator)
        pictures = jitter_pictures(place_drawings(self.drawings_N4HW[rows], poses), self.generator)
        for index, conditions in enumerate(palette):
            same_n = (shown_N == index).nonzero()[:, 0]
            pictures[same_n] = apply_conditions(pictures[same_n], conditions)
        size = (self.config.image_size, self.config.image_size)
        pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 255)
        captions = [
            write_caption(self.names[row], self.tags[row], palette[index], self.rng)
            for row, index in zip(rows, shown_N.tolist(), strict=True)
        ]
        return pictures, captions


class Pretraining:
    """The training of an open_clip CLIP, in place, one step at a time.

    Only the token rows that captions use are trained; the others end as zeros, so that the
    weights compress.
    """

    def __init__(
        self,
        model: Any,
        tokenize: Callable[[list[str]], Tensor],
        drawings: pd.DataFrame,
        drawings_N4HW: Tensor,
        config: PretrainConfig,
    ) -> None:
        """Prepare the first step."""
        torch.manual_seed(config.seed)
        self.model, self.tokenize, self.config = model, tokenize, config
        self.batches = Batches(drawings, drawings_N4HW, config)
        self.used_V = used_tokens(tokenize, drawings)
        self.row_of = torch.zeros(model.vocab_size, dtype=torch.long)
        self.row_of[self.used_V] = torch.arange(len(self.used_V))
        self.full_table = model.token_embedding
        table_VD = self.full_table.weight[self.used_V].detach()
        fresh_VD = torch.randn_like(table_VD) * 0.02  # words that the start does not know
        table_VD = torch.where((table_VD == 0).all(dim=1, keepdim=True), fresh_VD, table_VD)
        # torch leaves from_pretrained, and backward below, without types
        model.token_embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table_VD, freeze=False
        )
        self.mean, self.std = (
            torch.tensor(model.visual.preprocess_cfg[key]).view(1, 3, 1, 1) * 255
            for key in ("mean", "std")
        )
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        self.step = 0

    def run_step(self) -> float:
        """Train one step and return its loss."""
        model = self.model.train()
        pictures, captions = self.batches.draw()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        image_NE = model.encode_image((pictures - self.mean) / self.std)
        text_NE = encode_captions(model, self.tokenize(captions), self.row_of)
        loss = contrastive_loss(image_NE, text_NE, model.logit_scale.exp())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Return everything that `load_state` needs to resume with the same numbers."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.batches.generator.get_state(),
            "rng": self.batches.rng.getstate(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.generator.set_state(state["generator"])
        self.batches.rng.setstate(state["rng"])

    @torch.no_grad()
    def finish(self) -> None:
        """Give the model its whole token table back, ready for evaluation."""
        trained_VD = self.model.token_embedding.weight
        self.model.token_embedding = self.full_table
        self.full_table.weight.zero_()
        self.full_table.weight[self.used_V] = trained_VD
        self.model.eval()


def encode_captions(model: Any, tokens_NL: Tensor, row_of: Tensor) -> Tensor:
    """Return `[N, E]` text features, skipping most positions after the ends of captions.

    The shorter and the longer half of the captions are encoded apart, each cut after its own
    longest, which changes nothing in a causal tower.
    """
    order_N = tokens_NL.argmax(dim=-1).argsort(stable=True)
    halves = []
    for tokens_nL in tokens_NL[order_N].chunk(2):
        eos_n = tokens_nL.argmax(dim=-1)
        length = int(eos_n.max()) + 1
        x_nLD = model.token_embedding(row_of[tokens_nL[:, :length]])
        x_nLD = x_nLD + model.positional_embedding[:length]
        x_nLD = model.transformer(x_nLD, attn_mask=model.attn_mask[:length, :length])
        halves.append(model.ln_final(x_nLD[torch.arange(len(x_nLD)), eos_n]))
    text_NE: Tensor = torch.cat(halves)[order_N.argsort()] @ model.text_projection
    return text_NE
