"""What the numbers say, in sentences that are computed from them: words for people, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.summary import MEASURES, MethodSummary, Stat
from pipeline.training.records import TrialRecord
from pipeline.training.refit import ZERO_SHOT


def percent(value: float) -> str:
    """Write an accuracy in percent with one decimal: `71.2`."""
    return f"{100 * value:.1f}"


def points(difference: float) -> str:
    """Write a difference of accuracies in points, signed: `+1.2`; `0.0` has no sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def with_spread(stat: Stat | None) -> str:
    """Write a quantity in percent: `71.2 ± 0.4`, `71.2` for a single value, a dash for None."""
    if stat is None:
        return "\N{EN DASH}"
    return percent(stat.mean) + ("" if stat.spread is None else f" ± {percent(stat.spread)}")


def describe(settings: Mapping[str, Any]) -> str:
    """Describe a configuration in words: `rank 2, 4 bits, 8 context tokens, lr 0.05`."""
    words = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        number = f"{value:.3g}" if isinstance(value, float) else str(value)
        plural = "" if value == 1 else "s"
        words.append(
            {
                "rank": "full rank" if value == "full" else f"rank {value}",
                "bits": f"{value} bit{plural}",
                "n_ctx": f"{value} context token{plural}",
            }.get(name, f"{name} {number}")
        )
    return ", ".join(words)


def listed(words: Sequence[str]) -> str:
    """Write a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def times(first: int, second: int) -> str:
    """Compare two sizes in bytes: `4.2 times smaller`, `1 byte larger` or `equally large`."""
    if first == second:
        return "equally large"
    if not min(first, second) or max(first, second) < 1.05 * min(first, second):
        gap = abs(first - second)
        word = "larger" if first > second else "smaller"
        return f"{gap:,} byte{'s' if gap > 1 else ''} {word}"
    ratio = max(first, second) / min(first, second)
    return f"{ratio:.1f} times {'larger' if first > second else 'smaller'}"


def comparison_sentences(
    methods: Mapping[str, MethodSummary],
    tasks: Mapping[str, Mapping[str, MethodSummary]],
    winners: Mapping[str, TrialRecord],
) -> list[str]:
    """Say what the test says, gains and losses alike."""
    tuned = [name for name in ("champion", "compact", "coop") if name in methods]
    distinct = {winners[name].number: name for name in reversed(tuned)}.values()
    sentences = [
        compare(methods[name], methods[ZERO_SHOT], tasks) for name in tuned if name in distinct
    ]
    if {"champion", "coop"} <= set(distinct):
        sentences.append(compare(methods["champion"], methods["coop"], tasks))
    if "champion" in tuned:
        sentences += held_out_sentences(methods["champion"], methods[ZERO_SHOT])
    return sentences


def best_on_test(methods: Mapping[str, MethodSummary]) -> MethodSummary:
    """Return the method with the highest harmonic mean.

    Of those equal to a tenth of a percent: zero-shot, then champion, then the smaller.
    """
    ties = {ZERO_SHOT: 0, "champion": 1}
    return min(
        methods.values(),
        key=lambda m: (-round(m.harmonic_mean.mean, 3), ties.get(m.method, 2), m.size_bytes),
    )


def headline(methods: Mapping[str, MethodSummary]) -> str:
    """Say in one sentence which method has the best harmonic mean on test images."""
    best, zero = best_on_test(methods), methods[ZERO_SHOT]
    reached = f"({with_spread(best.harmonic_mean)} %)"
    if best.method == ZERO_SHOT:
        return (
            f"On test images, zero-shot {reached} wins: no tuned prompt has a higher harmonic mean."
        )
    overall, base, new = (
        points(getattr(best, name).mean - getattr(zero, name).mean)
        for name in ("harmonic_mean", "base", "new")
    )
    text = (
        f"On test images, {best.label} {reached} has the highest harmonic mean: {overall} points "
        f"against zero-shot ({with_spread(zero.harmonic_mean)} %), {base} on base and {new} on "
        "new classes."
    )
    if best.method == "champion" or "champion" not in methods:
        return text
    gap = points(methods["champion"].harmonic_mean.mean - best.harmonic_mean.mean)
    return f"{text} The champion of the validation data is at {gap} points from it."


def compare(
    method: MethodSummary,
    other: MethodSummary,
    tasks: Mapping[str, Mapping[str, MethodSummary]],
) -> str:
    """Compare two methods on base, new and harmonic mean, over all seeds and tasks."""
    parts, gains = [], {}
    for name, words in MEASURES.items():
        mine, theirs = getattr(method, name), getattr(other, name)
        gains[name] = round(100 * (mine.mean - theirs.mean), 1)
        verb = "ties on" if not gains[name] else "wins on" if gains[name] > 0 else "loses on"
        n_tasks = sum(
            getattr(task[method.method], name).mean > getattr(task[other.method], name).mean
            for task in tasks.values()
        )
        ahead, n_seeds = seeds_ahead(mine, theirs)
        parts.append(
            f"{verb} {words} ({points(mine.mean - theirs.mean)} points; ahead in "
            f"{ahead} of {n_seeds} seeds and {n_tasks} of {len(tasks)} tasks)"
        )
    text = f"{method.label} against {other.label}: {parts[0]}, {parts[1]}, {parts[2]}."
    return text[0].upper() + text[1:] + balance(gains)


def held_out_sentences(method: MethodSummary, zero: MethodSummary) -> list[str]:
    """Compare a method with zero-shot in the held-out styles; nothing if there are none."""
    parts = [
        f"{points(mine.mean - theirs.mean)} points on {words} classes ({with_spread(mine)} % "
        f"against {with_spread(theirs)} %)"
        for mine, theirs, words in (
            (method.held_out_base, zero.held_out_base, "base"),
            (method.held_out_new, zero.held_out_new, "new"),
        )
        if mine and theirs
    ]
    text = f"In held-out styles, {method.label} against {zero.label}: {' and '.join(parts)}."
    return [text] if parts else []


def seeds_ahead(mine: Stat, theirs: Stat) -> tuple[int, int]:
    """Count the seeds at which `mine` is above `theirs`, and all seeds; equal seeds are paired."""
    n_seeds = len(mine.values)
    others = theirs.values if len(theirs.values) == n_seeds else (theirs.mean,) * n_seeds
    return sum(a > b for a, b in zip(mine.values, others, strict=True)), n_seeds


def balance(gains: Mapping[str, float]) -> str:
    """Say which side pays for the other; nothing when base and new agree."""
    base, new, overall = (gains[name] for name in MEASURES)
    if base * new >= 0:
        return ""
    winner, loser = ("base", "new") if base > 0 else ("new", "base")
    verdict = "outweighs" if overall > 0 else "does not outweigh"
    return f" What it gains on {winner} classes {verdict} what it loses on {loser} ones."
