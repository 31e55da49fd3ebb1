"""Conditions: deterministic, distinct, and kept out of pretraining where they are unnamed."""

from itertools import combinations

import pytest
import torch

from pipeline.data.datasets.conditions import CONDITIONS, NAMED, UNNAMED, apply_conditions


@pytest.fixture(scope="module")
def pictures_N3HW() -> torch.Tensor:
    """Four pictures with colours and edges: random blocks."""
    blocks = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    return blocks.repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_a_condition_is_a_pure_function_of_each_picture(
    name: str, pictures_N3HW: torch.Tensor
) -> None:
    before_N3HW = pictures_N3HW.clone()
    shown_N3HW = apply_conditions(pictures_N3HW, [name])
    assert torch.equal(pictures_N3HW, before_N3HW)
    assert shown_N3HW.shape == pictures_N3HW.shape
    assert shown_N3HW.min() >= 0
    assert shown_N3HW.max() <= 255
    alone_N3HW = torch.cat([apply_conditions(one, [name]) for one in pictures_N3HW.split(1)])
    torch.testing.assert_close(alone_N3HW, shown_N3HW)


def test_conditions_are_distinct(pictures_N3HW: torch.Tensor) -> None:
    shown = {name: apply_conditions(pictures_N3HW, [name]) for name in CONDITIONS}
    shown["plain"] = pictures_N3HW
    for (first, a_N3HW), (second, b_N3HW) in combinations(shown.items(), 2):
        assert (a_N3HW - b_N3HW).abs().mean() > 8, (first, second)


def test_conditions_apply_in_order(pictures_N3HW: torch.Tensor) -> None:
    both = apply_conditions(pictures_N3HW, ["night", "negative"])
    torch.testing.assert_close(
        both, 255 - apply_conditions(pictures_N3HW, ["night"]), rtol=0, atol=0.01
    )
    assert apply_conditions(pictures_N3HW, []) is pictures_N3HW


def test_no_condition_is_both_named_and_unnamed() -> None:
    assert not set(NAMED) & set(UNNAMED)
    words = {word for name in UNNAMED for word in name.split()}
    assert not words & set(NAMED)
