"""The first screen's three sentences: what tuning gained, at what size, and whether it is noise."""

from __future__ import annotations

from pipeline.report.methods import look
from pipeline.report.outcome import BASE_TO_NEW, JUDGED, Outcome
from pipeline.report.words import count, listed, percent, points, with_spread


def verdict(outcome: Outcome) -> list[str]:
    """Say what the champion gained over zero-shot, gains and losses alike."""
    main, zero = outcome.main, outcome.zero_shot
    where = "test images" if outcome.protocol == BASE_TO_NEW else JUDGED[outcome.protocol]
    best = outcome.best
    if not zero or not outcome.tuned:
        reached = with_spread(outcome.of(best))
        return [
            f"On {where}, {look(best).label} has the highest {main_words(outcome)}: {reached} %."
        ]
    name = "champion" if "champion" in outcome.tuned else max(outcome.tuned, key=outcome.mean)
    gap, label = outcome.gap(name, zero), look(name).label
    tied = not round(100 * gap.mean, 1)
    verb = (
        "made no clear difference" if tied or gap.is_noise
        else "helped" if gap.mean > 0
        else "did not help"
    )  # fmt: skip
    sides = [
        f"{points(outcome.gap(name, zero, side).mean)} on {outcome.measures[side]}"
        for side in outcome.measures
        if side != main
    ]
    first = (
        f"Tuning {verb} here: on {where}, the {label} reaches a {main_words(outcome)} of "
        f"{with_spread(outcome.of(name))} %, {points(gap.mean)} points against "
        f"{look(zero).label} ({with_spread(outcome.of(zero))} %)"
        f"{': ' if sides else ''}{listed(sides) if sides else ''}."
    )
    return [first, size_sentence(outcome, name), noise_sentence(outcome, name, zero)]


def main_words(outcome: Outcome) -> str:
    """Return the name of what decides."""
    return outcome.measures[outcome.main]


def size_sentence(outcome: Outcome, name: str) -> str:
    """Say how large the champion's prompt is, and what others reach at their size."""
    others = dict.fromkeys(["compact", "coop", outcome.best])
    compared = [
        f"{look(other).label} {percent(outcome.mean(other))} % with "
        f"{count(outcome.size(other), 'byte')}"
        for other in others
        if other in outcome.tuned and other != name
    ]
    text = f"It stores {count(outcome.size(name), 'byte')} per task"
    return f"{text}. For comparison: {listed(compared)}." if compared else f"{text}."


def noise_sentence(outcome: Outcome, name: str, zero: str) -> str:
    """Say whether the difference is more than noise, and on how many tasks it holds."""
    gap = outcome.gap(name, zero)
    ahead, n_places = outcome.places_ahead(name, zero)
    thing = "task" if outcome.protocol == BASE_TO_NEW else "target"
    where = f"the {look(name).label} is ahead on {ahead} of {count(n_places, thing)}"
    if gap.noise is None:
        return f"With a single seed, its noise is unknown; {where}."
    size = f"{percent(gap.noise)} points, twice the standard error over {gap.n_seeds} seeds"
    more = "no more than noise" if gap.is_noise else "more than noise"
    return f"The difference is {more} ({size}), and {where}."
