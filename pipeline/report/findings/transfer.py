"""What the tests of protocols without base and new classes say, in sentences computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from pipeline.report.findings.method import points, seeds_ahead, with_spread
from pipeline.report.summary import METHODS, Panel, Stat
from pipeline.report.tables import methods_of, seed_means
from pipeline.training.records import Measurement
from pipeline.training.refit import ZERO_SHOT

WHERE = {
    "few_shot": "all classes, at the largest number of shots",
    "cross_dataset": "the other data sets",
    "domain_generalization": "the other domains",
}
"""What the headline averages over, by protocol."""


def place(one: Measurement) -> str:
    """Return what a measurement was tested on, for people."""
    if one.target != one.source:
        return one.target
    return one.source if one.domain == "shots" else one.domain


def judged(protocol: str, found: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements that the protocol is about.

    Those are the others' (not the source's own), or, with few shots, those of the largest number
    of shots; all of them if there is no other.
    """
    if protocol == "few_shot":
        most = max(one.shots for one in found)
        return [one for one in found if one.shots in (0, most)]
    others = [one for one in found if one.target != one.source or one.domain != "shots"]
    return others or list(found)


def by_method(found: Sequence[Measurement]) -> dict[str, Stat]:
    """Return each method's accuracy, mean over its measurements, per seed."""
    return {method: Stat(tuple(seed_means(own))) for method, own in methods_of(found).items()}


def transfer_headline(protocol: str, found: Sequence[Measurement]) -> str:
    """Say in one sentence which method is the most accurate where the protocol looks."""
    stats = by_method(judged(protocol, found))
    where = WHERE.get(protocol, "what was tested")
    ties = {ZERO_SHOT: 0, "champion": 1}
    best = min(stats, key=lambda name: (-round(stats[name].mean, 3), ties.get(name, 2)))
    reached = f"({with_spread(stats[best])} %)"
    if best == ZERO_SHOT:
        return f"On {where}, zero-shot {reached} wins: no tuned prompt is more accurate."
    text = f"On {where}, {METHODS.get(best, best)} {reached} has the highest mean accuracy"
    if ZERO_SHOT not in stats:
        return f"{text}."
    zero = stats[ZERO_SHOT]
    return (
        f"{text}: {points(stats[best].mean - zero.mean)} points against zero-shot "
        f"({with_spread(zero)} %)."
    )


def transfer_sentences(protocol: str, found: Sequence[Measurement]) -> list[str]:
    """Compare every tuned method with zero-shot, gains and losses alike."""
    own = judged(protocol, found)
    stats = by_method(own)
    if ZERO_SHOT not in stats:
        return []
    targets = {
        target: by_method([one for one in own if place(one) == target])
        for target in dict.fromkeys(place(one) for one in own)
    }
    sentences = []
    for name, stat in stats.items():
        if name == ZERO_SHOT:
            continue
        zero = stats[ZERO_SHOT]
        gain = round(100 * (stat.mean - zero.mean), 1)
        verb = "ties" if not gain else "wins" if gain > 0 else "loses"
        ahead, n_seeds = seeds_ahead(stat, zero)
        known = [both for both in targets.values() if name in both and ZERO_SHOT in both]
        n_targets = sum(both[name].mean > both[ZERO_SHOT].mean for both in known)
        label = METHODS.get(name, name)
        sentences.append(
            f"{label[0].upper()}{label[1:]} against zero-shot: {verb} on {WHERE[protocol]} "
            f"({points(stat.mean - zero.mean)} points; ahead in {ahead} of {n_seeds} seeds and on "
            f"{n_targets} of {len(known)} targets)."
        )
    return sentences


def transfer_panels(protocol: str, found: Sequence[Measurement]) -> list[Panel]:
    """Return accuracy by method, for every number of shots or for every target."""
    if protocol == "few_shot":
        zero = [one for one in found if not one.shots]
        counts = sorted({one.shots for one in found} - {0})
        groups: Mapping[str, list[Measurement]] = {
            f"{count} shots" if count > 1 else "1 shot": [
                *zero,
                *(one for one in found if one.shots == count),
            ]
            for count in counts
        }
        return [panel("all classes, mean over data sets", groups)]
    targets = dict.fromkeys(place(one) for one in found)
    groups = {target: [one for one in found if place(one) == target] for target in targets}
    return [panel("accuracy", groups)]


def panel(title: str, groups: Mapping[str, Sequence[Measurement]]) -> Panel:
    """Return a panel with a row per group."""
    return Panel(title, {row: by_method(own) for row, own in groups.items()})


def reached(found: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return what `dvc metrics show` compares: mean accuracy per method and target, rounded."""
    result: dict[str, dict[str, float]] = {}
    for method, own in methods_of(found).items():
        groups: dict[str, list[float]] = {}
        for one in own:
            groups.setdefault(f"{one.target}/{one.domain}/{one.shots}", []).append(one.accuracy)
        result[method] = {name: round(mean(values), 4) for name, values in groups.items()}
    return result
