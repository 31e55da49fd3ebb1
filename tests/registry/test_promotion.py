"""Who may take an alias."""

from itertools import product

import pytest

from pipeline.registry.promotion import BENCHMARK, SCORE, refusal

SAME = {name: name for name in BENCHMARK}


def tags(score: float, **changed: str) -> dict[str, str]:
    return {**SAME, SCORE: f"{score:.6f}", **changed}


@pytest.mark.parametrize(("own", "theirs"), product([0.5, 0.6, 0.600001], repeat=2))
def test_only_a_worse_score_on_the_same_benchmark_is_refused(own: float, theirs: float) -> None:
    refused = refusal("better", tags(own), tags(theirs))
    assert (refused is not None) == (own < theirs)
    assert refusal("always", tags(own), tags(theirs)) is None
    assert refusal("never", tags(own), tags(theirs)) == "register.promote is never"


def test_an_alias_that_nobody_holds_is_free_except_to_never() -> None:
    assert refusal("better", tags(0.1), None) is None
    assert refusal("always", tags(0.1), None) is None
    assert refusal("never", tags(0.1), None)


@pytest.mark.parametrize("name", BENCHMARK)
def test_another_benchmark_cannot_be_compared(name: str) -> None:
    refused = refusal("better", tags(0.9, **{name: "other"}), tags(0.1))
    assert f"{name} other instead of {name}" in str(refused)
    assert refusal("always", tags(0.9, **{name: "other"}), tags(0.1)) is None


def test_a_holder_that_says_nothing_stays() -> None:
    assert "unknown" in str(refusal("better", tags(0.9), {}))
    assert f"no tag {SCORE}" in str(refusal("better", tags(0.9), SAME))
    assert "below" in str(refusal("better", tags(float("nan")), tags(0.5)))
