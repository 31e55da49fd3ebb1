"""Trials of an earlier code, taken over by the study of the code at hand, on request only."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from pipeline.core.errors import report_all
from pipeline.sweep.identity import Identity
from pipeline.sweep.study import Search


def adoptable(search: Search) -> list[str]:
    """Return other studies of the same file that differ from this one in their code alone."""
    return [name for name, problems in others(search).items() if not problems]


def adopt(search: Search, name: str) -> int:
    """Copy the trials of another study that ended with a result, each with its origin.

    What is adopted is noted in the study. Settings that the study has tried are left out, so a
    second call changes nothing.

    Args:
        search: the study of the code at hand.
        name: of the other study, or its beginning.

    Returns:
        How many trials were copied.

    Raises:
        ValueError: if there is no such study, or if more than its code differs; with all
            differences.
    """
    known = others(search)
    matches = [other for other in known if other.startswith(name)]
    if len(matches) != 1:
        raise ValueError(f"study: got {name!r}; expected one of {sorted(known)}")
    [name] = matches
    report_all(f"study {name} differs in more than its code", known[name])
    study = optuna.load_study(study_name=name, storage=search.storage)
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    count = sum([search.adopt(trial) for trial in ended])
    if count:
        code = study.user_attrs["inputs"]["code"][:12]
        search.note_adopted(f"{count} trials of {name} (code {code})")
    return count


def others(search: Search) -> dict[str, list[str]]:
    """Return by name in what the other studies of the same file differ, apart from their code.

    Studies without a trial are left out.
    """
    own = Identity(**search.about["inputs"])
    found = {}
    for study in optuna.get_all_study_summaries(search.storage, include_best_trial=False):
        if study.study_name != search.name and study.n_trials:
            inputs = study.user_attrs.get("inputs")
            unknown = ["its inputs were not recorded"]
            found[study.study_name] = own.differences(Identity(**inputs)) if inputs else unknown
    return found
