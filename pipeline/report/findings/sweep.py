"""What the sweep says, in sentences that are computed from its trials; all on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.report.findings.method import describe, listed, percent, points, times
from pipeline.report.summary import AxisRow
from pipeline.sweep.importance import TOP, Importance
from pipeline.sweep.selection import pareto_front
from pipeline.training.records import FailedTrial, TrialRecord


def ended_sentence(
    trials: Sequence[TrialRecord], pruned: Sequence[TrialRecord], failed: Sequence[FailedTrial]
) -> str:
    """Say how the trials ended."""
    parts = [f"{len(trials)} ran to their end"]
    if pruned:
        rounds = sorted({len(trial.history) for trial in pruned})
        span = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
        parts.append(
            f"{len(pruned)} were stopped after {span} round{'s' if rounds[-1] > 1 else ''} because "
            "others were ahead (successive halving)"
        )
    if failed:
        parts.append(f"{len(failed)} failed")
    total = len(trials) + len(pruned) + len(failed)
    none = "" if pruned or failed else "; none was stopped early and none failed"
    return f"Of {total} trials, {listed(parts)}{none}."


def selection_sentences(
    trials: Sequence[TrialRecord],
    winners: Mapping[str, TrialRecord],
    within: float,
    objective: str = "pareto",
) -> list[str]:
    """Say which trials won on validation data, and by how much."""
    looked = (
        "score and size"
        if objective == "pareto"
        else "score and size (the search looked for score alone, so nothing drove it to small ones)"
    )
    champion, compact, coop = (winners.get(role) for role in ("champion", "compact", "coop"))
    assert champion
    assert compact
    sentences = [
        f"{len(trials)} trials were scored on validation data alone; {len(pareto_front(trials))} "
        f"of them on the Pareto front of {looked}. Champion, the best score, is "
        f"trial {champion.number} ({describe(champion.settings)}): harmonic mean "
        f"{percent(champion.score)} %, {champion.size_bytes:,} bytes."
    ]
    rule = f"Compact, the smallest prompt within {percent(within)} points of the best score, is"
    if compact.number == champion.number:
        sentences.append(f"{rule} the champion itself.")
    else:
        sentences.append(
            f"{rule} trial {compact.number} ({describe(compact.settings)}): "
            f"{percent(compact.score)} %, {compact.size_bytes:,} bytes, "
            f"{times(compact.size_bytes, champion.size_bytes)} than the champion.".replace(
                "equally large than", "as large as"
            )
        )
    rule = "Plain CoOp (full rank, 16 bits) at its best learning rate is"
    if coop is None:
        sentences.append("No trial is plain CoOp (full rank, 16 bits), so it is not compared.")
    elif coop.number == champion.number:
        sentences.append(
            f"{rule} the champion itself: no trial of any other kind scored higher."
            if {trial.settings.get("prompt.bits") for trial in trials} != {16}
            or {trial.settings.get("prompt.rank") for trial in trials} != {"full"}
            else f"{rule} the champion itself; no low-rank or quantized prompt was tried."
        )
    else:
        sentences.append(
            f"{rule} trial {coop.number} ({describe(coop.settings)}): {percent(coop.score)} %, "
            f"{coop.size_bytes:,} bytes. The champion scores "
            f"{points(champion.score - coop.score)} points and is "
            f"{times(champion.size_bytes, coop.size_bytes)}."
        )
    return sentences


def importance_sentence(found: Sequence[Importance], n_trials: int) -> str:
    """Say which axes matter more than chance allows, and that others may not matter."""
    if not found:
        return f"{n_trials} trials are too few, or too alike, to say which axis matters."
    clear = [one for one in found if one.is_clear]
    others = [one.axis for one in found if not one.is_clear]
    by = f"PED-ANOVA on {n_trials} trials"
    best = f"the best {100 * TOP:.0f} % of the trials"
    if not clear:
        return (
            f"Which axis sets {best} apart? None more clearly than chance allows ({by}): the "
            "importances below are no evidence."
        )
    told = listed(
        [
            f"{one.axis} ({100 * one.share:.0f} % of the importance; chance gives up to "
            f"{100 * one.chance:.0f} %)"
            for one in clear
        ]
    )
    rest = f"; no more than chance: {listed(others)}" if others else ""
    return f"What sets {best} apart is {told}{rest} ({by})."


def curve_sentence(champion: TrialRecord) -> str:
    """Say what the champion's training did between its first and its last round."""
    if len(champion.history) < 2:
        return "The champion was measured once, at its end, so nothing is said about its training."
    first, last = champion.history[0], champion.history[-1]
    base, new, score = (points(last[name] - first[name]) for name in ("base", "new", "score"))
    peak = max(range(len(champion.history)), key=lambda i: champion.history[i]["score"]) + 1
    when = (
        "its score is highest at the end"
        if peak == len(champion.history)
        else f"its score was highest after round {peak}"
    )
    return (
        f"From its first to its last round ({len(champion.history)}), the champion's base changes "
        f"by {base}, its new by {new} and its score by {score} points; {when}."
    )


def axis_sentence(name: str, table: Sequence[AxisRow]) -> str:
    """Say between which values of a setting the mean score differs most, on validation data."""
    if len(table) < 2:
        return f"The trials do not vary {name}, so nothing is said about it."
    high, low = max(table, key=lambda r: r.score), min(table, key=lambda r: r.score)
    return (
        f"Over {name}, the mean validation score is highest at {high.value} "
        f"({percent(high.score)} %, trials: {high.n_trials}) and lowest at {low.value} "
        f"({percent(low.score)} %, trials: {low.n_trials}); from the lowest to the highest, base "
        f"changes by {points(high.base - low.base)} and new by "
        f"{points(high.new - low.new)} points."
    )
