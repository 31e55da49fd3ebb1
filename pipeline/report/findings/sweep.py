"""What the sweep shows, in sentences that are computed from its trials; all on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report.words import count, describe, listed, percent, points, times
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.importance import TOP, Importance
from pipeline.sweep.selection import pareto_front
from pipeline.training.config import TrainConfig
from pipeline.training.records import FailedTrial, TrialRecord

SAMPLERS = {"tpe": "proposed by Optuna's TPE", "random": "drawn at random", "grid": "on a grid"}


def searched(sweep: SweepConfig, train: TrainConfig, method: str | None) -> dict[str, str]:
    """Return what was searched, by name."""
    asha = sweep.asha
    objective = "validation score up and stored bytes down; every trial runs to the end"
    if sweep.objective == "score":
        objective = (
            "validation score; trials that fall behind are stopped (successive halving: at each "
            f"rung one in {asha.reduction_factor:g} resumes, from round {asha.grace_rounds} on)"
        )
    return {
        "objective": objective,
        "trials": f"{sweep.n_trials}, {SAMPLERS[sweep.sampler]} (seed {sweep.sampler_seed}); "
        f"{len(sweep.first)} given at the start",
        **{name: axis.words for name, axis in sweep.space.items()},
        **({"method": method} if method else {}),
        "a trial": f"{count(len(sweep.tasks), 'task')} ({', '.join(sweep.tasks)}), "
        f"{count(sweep.shots, 'shot')}, seeds {', '.join(map(str, sweep.seeds))}; score: harmonic "
        "mean of the mean base and the mean new accuracy",
        "training": f"schedule {train.schedule}, measured {train.rounds} times",
    }


def ended_sentence(
    trials: Sequence[TrialRecord], pruned: Sequence[TrialRecord], failed: Sequence[FailedTrial]
) -> str:
    """Say how the trials ended."""
    total = count(len(trials) + len(pruned) + len(failed), "trial")
    if not pruned and not failed:
        return (
            f"All {total} ran to the end." if len(trials) > 1 else "The only trial ran to the end."
        )
    rounds = sorted({len(trial.history) for trial in pruned})
    parts = [f"{len(trials)} ran to the end"]
    if pruned:
        span = " to ".join(map(str, dict.fromkeys([rounds[0], rounds[-1]])))
        parts.append(f"{len(pruned)} stopped early, after {span} rounds, because others were ahead")
    if failed:
        parts.append(f"{len(failed)} failed")
    return f"Of {total}, {listed(parts)}."


def selection_sentences(
    trials: Sequence[TrialRecord], winners: Mapping[str, TrialRecord], within: float
) -> list[str]:
    """Say which trials won on validation data, and by how much."""
    champion, compact, coop = (winners.get(role) for role in ("champion", "compact", "coop"))
    assert champion
    assert compact

    def about(trial: TrialRecord) -> str:
        size = count(trial.size_bytes, "byte")
        return (
            f"trial {trial.number} ({describe(trial.settings)}): {percent(trial.score)} %, {size}"
        )

    sentences = [
        f"The champion has the best score: {about(champion)}. "
        f"{count(len(pareto_front(trials)), 'trial')} of {len(trials)} on the Pareto front of score "
        "and size."
    ]
    rule = f"Compact, the smallest prompt within {percent(within)} points of the best score, is"
    if compact.number == champion.number:
        sentences.append(f"{rule} the champion itself.")
    else:
        ratio = times(compact.size_bytes, champion.size_bytes)
        sentences.append(f"{rule} {about(compact)}, {ratio} the champion.")
    rule = "Plain CoOp (full rank, 16 bits) at its best learning rate is"
    if coop is None:
        sentences.append("No trial is plain CoOp (full rank, 16 bits), so it is not compared.")
    elif coop.number != champion.number:
        ratio = times(champion.size_bytes, coop.size_bytes)
        gain = points(champion.score - coop.score)
        sentences.append(
            f"{rule} {about(coop)}. The champion scores {gain} points and is {ratio} it."
        )
    else:
        kinds = {(t.settings.get("prompt.rank"), t.settings.get("prompt.bits")) for t in trials}
        others = "scored higher" if kinds != {("full", 16)} else "was tried"
        sentences.append(f"{rule} the champion itself: no low-rank or quantized prompt {others}.")
    return sentences


def importance_sentence(found: Sequence[Importance], n_trials: int) -> str:
    """Say which axes matter more than chance allows, and that others may not matter."""
    if not found:
        return f"{n_trials} trials are too few, or too alike, to say which setting matters."
    clear = [
        f"{one.axis} ({100 * one.share:.0f} % of the importance; chance gives up to "
        f"{100 * one.chance:.0f} %)"
        for one in found
        if one.is_clear
    ]
    best = f"the best {100 * TOP:.0f} % of {n_trials} trials"
    if not clear:
        return f"No setting separates {best} more clearly than chance does."
    return f"What separates {best} is {listed(clear)}."


def curve_sentence(champion: TrialRecord) -> str:
    """Say what the champion's training did between its first and its last round."""
    history = champion.history
    if len(history) < 2:
        return "The champion was measured once, at its end."
    base, new, score = (points(history[-1][m] - history[0][m]) for m in ("base", "new", "score"))
    peak = max(range(len(history)), key=lambda place: history[place]["score"]) + 1
    when = "at the end" if peak == len(history) else f"after round {peak}"
    return (
        f"From its first to its last round ({len(history)}), the champion's base accuracy changes "
        f"by {base}, new by {new} and the score by {score} points; the score was highest {when}."
    )


def axis_sentence(name: str, means: pd.DataFrame) -> str:
    """Say between which values of a setting the mean score differs most."""
    rows: list[dict[Any, Any]] = means.sort_values("score").reset_index().to_dict("records")
    low, high = rows[0], rows[-1]
    if len(rows) < 2:
        return f"The trials do not vary {name}."
    base, new = (points(high[side] - low[side]) for side in ("base", "new"))
    return (
        f"Over {name}, the mean score is highest at {high['value']} ({percent(high['score'])} %) "
        f"and lowest at {low['value']} ({percent(low['score'])} %): {base} on base and {new} on "
        "new classes."
    )
