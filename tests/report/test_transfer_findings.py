"""Protocols without base and new classes are told as carefully as the others."""

import pytest
from pipeline.report.findings.transfer import (
    judged,
    reached,
    transfer_headline,
    transfer_panels,
    transfer_sentences,
)

from pipeline.training.records import Measurement
from pipeline.training.refit import ZERO_SHOT
from tests.report.test_tables import measured


def transfer(gain: float) -> list[Measurement]:
    """Trained on pets, tested on pets and two others, on which CoOp gains or loses."""
    found = []
    for target, accuracy in (("pets", 0.9), ("cars", 0.5), ("food", 0.7)):
        found.append(measured(ZERO_SHOT, "pets", None, accuracy, target=target))
        change = 0.05 if target == "pets" else gain
        found += [
            measured("coop", "pets", seed, accuracy + change, target=target) for seed in (1, 2)
        ]
    return found


def test_the_source_itself_is_no_transfer() -> None:
    assert {one.target for one in judged("cross_dataset", transfer(0.1))} == {"cars", "food"}
    text = transfer_headline("cross_dataset", transfer(-0.1))
    assert text == (
        "On the other data sets, zero-shot (60.0 %) wins: no tuned prompt is more accurate."
    )


def test_a_gain_is_told_with_its_size() -> None:
    text = transfer_headline("cross_dataset", transfer(0.1))
    assert "CoOp (70.0 ± 0.0 %) has the highest mean accuracy: +10.0 points" in text
    (sentence,) = transfer_sentences("cross_dataset", transfer(0.1))
    assert (
        "wins on the other data sets (+10.0 points; ahead in 2 of 2 seeds and on 2 of 2" in sentence
    )


def test_a_loss_and_a_tie_are_told() -> None:
    assert "CoOp against zero-shot: loses" in transfer_sentences("cross_dataset", transfer(-0.1))[0]
    assert "CoOp against zero-shot: ties" in transfer_sentences("cross_dataset", transfer(0.0))[0]
    assert "zero-shot" in transfer_headline("cross_dataset", transfer(0.0))


def few_shot() -> list[Measurement]:
    """Zero-shot at 0.6; CoOp below it with one shot and above it with sixteen."""
    found = [measured(ZERO_SHOT, "pets", None, 0.6)]
    for shots, accuracy in ((1, 0.5), (16, 0.8)):
        found += [measured("coop", "pets", seed, accuracy, shots=shots) for seed in (1, 2)]
    return found


def test_few_shots_are_judged_at_the_most_of_them() -> None:
    assert {one.shots for one in judged("few_shot", few_shot())} == {0, 16}
    assert "+20.0 points" in transfer_headline("few_shot", few_shot())


def test_panels_have_a_row_for_every_number_of_shots_or_target() -> None:
    (panel,) = transfer_panels("few_shot", few_shot())
    assert list(panel.rows) == ["1 shot", "16 shots"]
    assert [row["coop"].mean for row in panel.rows.values()] == pytest.approx([0.5, 0.8])
    assert all(row[ZERO_SHOT].mean == 0.6 for row in panel.rows.values())
    (panel,) = transfer_panels("cross_dataset", transfer(0.1))
    assert list(panel.rows) == ["pets", "cars", "food"]


def test_domains_are_told_apart_from_the_source() -> None:
    found = [
        measured(method, "imagenet", seed, accuracy, domain=domain)
        for method, seed, gain in ((ZERO_SHOT, None, 0.0), ("coop", 1, 0.1))
        for domain, accuracy in (("shots", 0.7), ("sketch", 0.4))
        for accuracy in (accuracy + gain,)
    ]
    (panel,) = transfer_panels("domain_generalization", found)
    assert list(panel.rows) == ["imagenet", "sketch"]
    assert {one.domain for one in judged("domain_generalization", found)} == {"sketch"}
    assert reached(found)["coop"] == {"imagenet/shots/16": 0.8, "imagenet/sketch/16": 0.5}
