"""Who may take an alias: the better configuration of the same benchmark, by validation alone."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.registry.config import Policy

ALIASES = ("champion", "compact")
"""Candidates compete for the first; the others belong to the same sweep's choice and follow it."""
BENCHMARK = ("data_hash", "protocol", "tasks", "shots", "selection_seeds")
"""Tags that must be equal for two validation scores to be comparable."""
SCORE = "validation_score"


def refusal(
    policy: Policy, candidate: Mapping[str, str], holder: Mapping[str, str] | None
) -> str | None:
    """Return why a version does not take `champion` from the one that holds it; None if it does.

    With `better` a candidate takes the alias if no version holds it, or if its validation score is
    at least the holder's on the same benchmark. Scores of different benchmarks cannot be compared,
    so the holder stays. `always` takes it whatever the scores, `never` changes no alias.

    Args:
        policy: `register.promote`.
        candidate: tags of the version that would take it.
        holder: tags of the version that has it, or None.
    """
    if policy == "never":
        return "register.promote is never"
    if policy == "always" or holder is None:
        return None
    differences = [
        f"{name} {candidate.get(name, 'unknown'):.40} instead of {holder.get(name, 'unknown'):.40}"
        for name in BENCHMARK
        if candidate.get(name) != holder.get(name)
    ]
    if differences:
        listed = ", ".join(differences)
        return f"it was chosen on another benchmark, so scores cannot be compared ({listed})"
    try:
        own, theirs = float(candidate[SCORE]), float(holder[SCORE])
    except (KeyError, ValueError):
        return f"one of them has no tag {SCORE}, so they cannot be compared"
    if not own >= theirs:
        return f"its validation score is {100 * own:.2f}, below {100 * theirs:.2f}"
    return None
