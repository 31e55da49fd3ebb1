"""The recipe of the embedded backbone: it repeats, learns, and leaves unused words at zero."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from pipeline.clip.folder import build_clip
from pipeline.clip.pretraining.card import model_card
from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.clip.pretraining.recipe import (
    Batches,
    Pretraining,
    contrastive_loss,
    draw_conditions,
    encode_captions,
    jitter_pictures,
    learning_rate,
    used_tokens,
    write_caption,
)
from pipeline.data.config import EmojiTask
from pipeline.data.datasets.conditions import KINDS, NAMED, UNNAMED
from pipeline.data.datasets.emoji import render_drawing
from tests.helpers.toy import COLOURS


def config(**changed: Any) -> PretrainConfig:
    """Return a tiny recipe."""
    plain = {
        "start": None,
        "styles": ["flat"],
        "seed": 1,
        "steps": 3,
        "batch_size": 4,
        "lr": 0.003,
        "weight_decay": 0.1,
        "warmup_steps": 1,
        "decay": 0.5,
        "conditions": 3,
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


def start(drawings: pd.DataFrame, pixels: torch.Tensor, **changed: Any) -> Pretraining:
    """Return a training before its first step."""
    recipe = config(**changed)
    torch.manual_seed(0)
    model, tokenizer = build_clip(recipe.open_clip_config(), recipe.context_length)
    return Pretraining(model, tokenizer, drawings, pixels, recipe)


def fit(drawings: pd.DataFrame, pixels: torch.Tensor, **changed: Any) -> tuple[Any, list[float]]:
    """Return the trained model and its losses."""
    training = start(drawings, pixels, **changed)
    losses = [training.run_step() for _ in range(training.config.steps)]
    training.finish()
    return training.model, losses


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


def test_a_batch_shows_every_concept_under_two_conditions(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    batches = Batches(drawings.assign(tags=[[]] * len(drawings)), pixels, config(batch_size=8))
    for _ in range(10):
        pictures, captions = batches.draw()
        assert pictures.shape == (8, 3, 32, 32)
        colours = [next(c for c in COLOURS if f"{c} thing" in caption) for caption in captions]
        assert len(set(colours[:4])) == 4
        assert colours[4:] == colours[:4]
        shown = [named_in(caption) for caption in captions]
        assert all(first != again for first, again in zip(shown[:4], shown[4:], strict=True))
        assert len(set(shown)) <= 3


def test_a_resumed_training_gives_the_same_weights(
    drawings: pd.DataFrame, pixels: torch.Tensor, tmp_path: Path
) -> None:
    whole = start(drawings, pixels, steps=4)
    losses = [whole.run_step() for _ in range(4)]
    first = start(drawings, pixels, steps=4)
    first.run_step()
    first.run_step()
    torch.save(first.state(), tmp_path / "state.pt")
    resumed = start(drawings, pixels, steps=4)
    resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [resumed.run_step() for _ in range(2)] == losses[2:]
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name


def test_words_that_the_start_does_not_know_begin_at_random(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    recipe = config()
    model, tokenizer = build_clip(recipe.open_clip_config(), recipe.context_length)
    known = tokenizer.encode("red thing")
    weight_VD = model.token_embedding.weight.data
    kept_VD = weight_VD[known].clone()
    weight_VD.zero_()
    weight_VD[known] = kept_VD
    training = Pretraining(model, tokenizer, drawings, pixels, recipe)
    table_VD = training.model.token_embedding.weight
    assert torch.equal(table_VD[training.row_of[known]], kept_VD)
    assert table_VD.any(dim=1).all()


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    image_NE, text_NE = torch.randn(5, 8), torch.randn(5, 8)
    similarity_NN = 7 * F.cosine_similarity(image_NE[:, None], text_NE[None], dim=-1)
    rows = -similarity_NN.log_softmax(dim=1).diagonal().mean()
    columns = -similarity_NN.log_softmax(dim=0).diagonal().mean()
    found = contrastive_loss(image_NE, text_NE, torch.tensor(7.0))
    torch.testing.assert_close(found, (rows + columns) / 2)


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    recipe = config(steps=100, warmup_steps=10, decay=0.4)
    rates = [learning_rate(step, recipe) / recipe.lr for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:61] == pytest.approx([1.0] * 51)
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


def named_in(caption: str) -> frozenset[str]:
    """Return the named conditions that a caption names."""
    return frozenset(caption.replace(".", " ").split()) & frozenset(NAMED)


def test_captions_name_every_condition_in_front_of_the_name() -> None:
    rng = random.Random(0)
    for _ in range(300):
        conditions = draw_conditions(rng)
        before, name, after = write_caption("cat", [], conditions, rng).partition("cat")
        assert named_in(before) == set(conditions)
        assert (name, after) == ("cat", ".")


def test_captions_of_plain_pictures_name_no_condition() -> None:
    rng = random.Random(0)
    captions = [write_caption("cat", ["pet"], (), rng) for _ in range(300)]
    assert all("cat" in caption or "pet" in caption for caption in captions)
    assert sum("cat" in caption for caption in captions) > 200
    assert not any(named_in(caption) for caption in captions)


def test_drawn_conditions_are_named_and_of_different_kinds() -> None:
    rng = random.Random(0)
    drawn = {draw_conditions(rng) for _ in range(2000)}
    assert {condition for conditions in drawn for condition in conditions} == set(NAMED)
    for conditions in drawn:
        kinds = [next(i for i, k in enumerate(KINDS) if one in k) for one in conditions]
        assert kinds == sorted(set(kinds))


def test_captions_never_hold_a_word_of_an_unnamed_condition(
    drawings: pd.DataFrame, pixels: torch.Tensor
) -> None:
    batches = Batches(drawings, pixels, config(batch_size=8))
    words = {w for _ in range(40) for text in batches.draw()[1] for w in text.strip(".").split()}
    assert not words & {word for condition in UNNAMED for word in condition.split()} - set(COLOURS)


def test_the_card_has_both_rows_of_every_task_and_their_means() -> None:
    tasks = {
        name: EmojiTask(group="things", conditions=[condition], template=f"a {condition} {{}}.")
        for name, condition in (("one", "negative"), ("two", "thermal"))
    }
    general, own = (
        [
            {"task": name, "base": b, "new": b / 2, "held_out_base": b / 4, "held_out_new": None}
            for name, b in zip(tasks, bases, strict=True)
        ]
        for bases in ((0.2, 0.4), (0.6, 0.8))
    )
    card = model_card(config(), tasks, "a drawing of a", general, own, 1.5, "abc", {"torch": "2"})
    assert "| one | 20.0 / 10.0 | 60.0 / 30.0 | 5.0 / 0.0 | 15.0 / 0.0 |" in card
    assert "| **mean** | 30.0 / 15.0 | 70.0 / 35.0 | 7.5 / 0.0 | 17.5 / 0.0 |" in card
    assert "| two | thermal | a thermal {}. |" in card
    assert all(condition in card for condition in NAMED)
