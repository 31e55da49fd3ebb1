"""The recipe of the embedded backbone: it repeats, learns, and leaves unused words at zero."""

import math
import random
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from pipeline.clip.folder import build_clip
from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.clip.pretraining.recipe import (
    STYLE_WORDS,
    Batches,
    contrastive_loss,
    encode_captions,
    fit_clip,
    jitter_pictures,
    learning_rate,
    used_tokens,
    write_caption,
    write_full_caption,
)
from pipeline.data.datasets.emoji import BACKGROUNDS, render_drawing
from tests.helpers.toy import COLOURS, STYLES


def config(**changed: Any) -> PretrainConfig:
    """Return a tiny recipe."""
    plain = {
        "styles": ["flat"],
        "seed": 1,
        "steps": 3,
        "batch_size": 4,
        "lr": 0.003,
        "weight_decay": 0.1,
        "warmup_steps": 1,
        "image_size": 32,
        "patch_size": 16,
        "vision_width": 64,
        "vision_layers": 1,
        "text_width": 64,
        "text_layers": 1,
        "embed_dim": 32,
        "context_length": 16,
    }
    return PretrainConfig(**{**plain, **changed})


@pytest.fixture(scope="session")
def pixels(drawings: pd.DataFrame) -> torch.Tensor:
    return torch.from_numpy(np.stack([render_drawing(svg, 32) for svg in drawings["svg"]]))


def fit(drawings: pd.DataFrame, pixels: torch.Tensor, **changed: Any) -> tuple[Any, list[float]]:
    """Return the trained model and its losses."""
    recipe = config(**changed)
    torch.manual_seed(0)
    model, tokenizer = build_clip(recipe.open_clip_config(), recipe.context_length)
    return model, list(fit_clip(model, tokenizer, drawings, pixels, recipe))


def test_the_same_seed_gives_the_same_weights(drawings: pd.DataFrame, pixels: torch.Tensor) -> None:
    (first, losses), (second, same), (_, other) = (
        fit(drawings, pixels, seed=seed) for seed in (1, 1, 2)
    )
    assert losses == same
    assert losses != other
    for name, tensor in second.state_dict().items():
        assert torch.equal(first.state_dict()[name], tensor), name


def test_rows_of_unused_tokens_are_zero_and_used_ones_are_not(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    model, _ = fit(drawings, pixels)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    used = torch.zeros(model.vocab_size, dtype=torch.bool)
    used[used_tokens(tokenizer, drawings)] = True
    weight_VD = model.token_embedding.weight
    assert weight_VD.shape == (49408, 64)
    assert not weight_VD[~used].any()
    assert weight_VD[used].any(dim=1).all()
    assert not model.training


def test_every_caption_is_made_of_used_tokens(drawings: pd.DataFrame, pixels: torch.Tensor) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=32)
    used = set(used_tokens(tokenizer, drawings).tolist())
    batches = Batches(drawings, pixels, config(batch_size=8))
    captions = {caption for _ in range(40) for caption in batches.draw()[1]}
    assert len(captions) > 50
    for caption in captions:
        assert set(tokenizer.encode(caption)) <= used, caption


def test_training_learns(drawings: pd.DataFrame, pixels: torch.Tensor) -> None:
    _, losses = fit(drawings, pixels, steps=12, batch_size=6)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_cut_captions_equal_the_models_own_path(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    model, _ = fit(drawings, pixels)
    tokens_NL = open_clip.SimpleTokenizer(context_length=16)(["a red thing.", "blue", "a drawing"])
    with torch.no_grad():
        found = encode_captions(model, tokens_NL, torch.arange(model.vocab_size))
        torch.testing.assert_close(found, model.encode_text(tokens_NL), rtol=1e-4, atol=1e-5)


def test_a_quarter_of_a_batch_shows_a_concept_again(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    batches = Batches(drawings.assign(tags=[[]] * len(drawings)), pixels, config(batch_size=8))
    for _ in range(5):
        pictures, captions = batches.draw()
        assert pictures.shape == (8, 3, 32, 32)
        colours = [next(c for c in COLOURS if f"{c} thing" in caption) for caption in captions]
        assert len(set(colours[:6])) == 6
        assert colours[6:] == colours[:2]
        for again, first in zip(captions[6:], captions[:2], strict=True):
            styles = {next(s for s in STYLES if f" {s} " in text) for text in (again, first)}
            assert len(styles) == 2


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    image_NE, text_NE = torch.randn(5, 8), torch.randn(5, 8)
    similarity_NN = 7 * F.cosine_similarity(image_NE[:, None], text_NE[None], dim=-1)
    rows = -similarity_NN.log_softmax(dim=1).diagonal().mean()
    columns = -similarity_NN.log_softmax(dim=0).diagonal().mean()
    found = contrastive_loss(image_NE, text_NE, torch.tensor(7.0))
    torch.testing.assert_close(found, (rows + columns) / 2)


def test_the_rate_warms_up_then_falls_to_zero() -> None:
    recipe = config(steps=100, warmup_steps=10)
    rates = [learning_rate(step, recipe) / recipe.lr for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_jitter_keeps_pictures_in_range_and_follows_its_generator() -> None:
    pictures = torch.rand(30, 3, 8, 8) * 255
    first, same, other = (
        jitter_pictures(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 255


def test_full_captions_tell_style_background_and_name() -> None:
    for background, colour in enumerate(BACKGROUNDS):
        caption = write_full_caption("cat", "openmoji", background)
        assert caption == f"a {STYLE_WORDS['openmoji']} drawing on {colour} of a cat."


def test_short_captions_tell_the_name_or_a_tag() -> None:
    rng = random.Random(0)
    captions = [write_caption("cat", ["pet"], rng) for _ in range(200)]
    assert all("cat" in caption or "pet" in caption for caption in captions)
    assert sum("cat" in caption for caption in captions) > 150
    assert all("cat" in write_caption("cat", [], rng) for _ in range(50))
