"""A card says what was measured, and fits where it is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.registry.release import load_abouts, version_tags
from pipeline.registry.version_card import MAX_CARD, licenses, version_card
from pipeline.training.records import Measurement
from tests.helpers.registry_world import LICENSES, NAME, World, measure


def card_of(world: World, method: str, measured: tuple[Measurement, ...] | None = None) -> str:
    release = world.releases[method]
    if measured is not None:
        release = replace(release, measured=measured)
    tags = version_tags(release, load_abouts(release))
    return version_card(NAME, "1", release, tags, LICENSES)


def test_scores_are_means_and_spreads_over_seeds(world: World) -> None:
    scores = [{"base": 0.5, "new": 0.4}, {"base": 0.7, "new": 0.4}]
    found = [
        one
        for task, shift in (("fruit", 0.0), ("tools", 0.2))
        for seed, own in enumerate(scores)
        for one in measure("champion", task, seed, {side: v + shift for side, v in own.items()}, 25)
    ]
    card = card_of(world, "champion", tuple(found))
    assert "| fruit | 60.0 ± 14.1 | 40.0 ± 0.0 | 47.7 ± 4.6 |" in card
    assert "| tools | 80.0 ± 14.1 | 60.0 ± 0.0 | 68.3 ± 5.2 |" in card
    assert "| **mean** | 70.0 ± 14.1 | 50.0 ± 0.0 | 58.0 ± 4.9 |" in card


def test_a_card_tells_use_data_limits_and_licenses(world: World) -> None:
    for method, towers in (("champion", "travel with this version"), ("pareto-2", "are named")):
        card = card_of(world, method)
        for part in (
            'predict("models:/toy/1", ["picture.png"], task="fruit")', "Tasks: fruit, tools",
            "seed 3", "Validation score", "data data", "code: Apache-2.0", towers,
            f"Trial\n{world.releases[method].trial} of sweep-toy", "## Limits",
        ):  # fmt: skip
            assert part in card, part
    assert " ± " not in card_of(world, "pareto-2"), "one seed has no spread"


def test_other_protocols_are_told_by_what_was_tested(world: World) -> None:
    one = Measurement("champion", "fruit", 16, 3, "tools", "all", "shots", 0.25, 9, 9, 1.0)
    found = (one, replace(one, seed=4, accuracy=0.75), replace(one, domain="held-out"))
    assert "| fruit | tools | 50.0 ± 35.4 |" in card_of(world, "champion", found)


@pytest.mark.parametrize("n_tasks", [1, 20, 1000])
def test_a_card_fits_and_keeps_the_means(world: World, n_tasks: int) -> None:
    scores = {"base": 0.5, "new": 0.5}
    found = [one for n in range(n_tasks) for one in measure("champion", f"task-{n}", 3, scores, 9)]
    card = card_of(world, "champion", tuple(found))
    assert len(card) <= MAX_CARD
    assert "| **mean** | 50.0 | 50.0 | 50.0 |" in card
    assert ("more tasks" in card) == (n_tasks == 1000)
    assert "## Licenses" in card


def test_licenses_name_code_towers_and_data() -> None:
    assert "CC-BY-SA-4.0" in " ".join(licenses("emoji", True, "artifacts/pretrain"))
    told = " ".join(licenses("coop", False, "ViT-B-16"))
    assert "ViT-B-16" in told
    assert "emoji" not in told
