"""Releases as versions of a registered MLflow model: made, found, and promoted.

A version is made once for the same content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.core.urls import without_credentials
from pipeline.registry.config import Policy
from pipeline.registry.mlflow_model import log_model
from pipeline.registry.promotion import ALIASES, refusal
from pipeline.registry.release import Release
from pipeline.registry.version_card import version_card
from pipeline.tracking.tracker import KEY, Tracker

DESCRIPTION = """Soft prompts for CLIP, by Loqua. Each version is one configuration of the Pareto
front of score and bytes; `champion` has the best validation score, `compact` is the smallest close
to it."""


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        version: its number.
        method: what its prompts are called in their files.
        trial: whose configuration it is.
        candidate_for: aliases.
        content_hash: of all that can change a prediction.
        tags: all but those that hold prompts.
    """

    version: str
    method: str
    trial: int
    candidate_for: tuple[str, ...]
    content_hash: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Promotion:
    """What became of an alias: the version that holds it now, and why another does not."""

    alias: str
    holder: str | None
    candidate: str
    refused: str | None


@dataclass(frozen=True)
class Registration:
    """What the stage `register` writes.

    Attributes:
        name: of the registered model.
        study: that chose the versions.
        seed: of their prompts.
        versions: smallest prompt first.
        aliases: what became of them.
    """

    name: str
    study: str
    seed: int
    versions: list[Registered]
    aliases: list[Promotion]


def register(
    tracker: Tracker, name: str, release: Release, licenses: Sequence[str] = ()
) -> tuple[Registered, bool]:
    """Make sure that the release is a version of model `name`; no alias is touched.

    Repeating it with the same content creates no run and no version, and changes none.

    Returns:
        The version, and whether this call made it.

    Raises:
        ValueError: if the registry refuses.
    """
    digest = release.content_hash
    try:
        known = find_version(tracker, name, digest)
        number = known or create_version(tracker, name, release)
        version = tracker.client.get_model_version(name, number)
        if not version.description:  # new, or the process that made it was stopped here
            card = version_card(name, number, release, licenses)
            tracker.client.update_model_version(name, number, description=card)
    except MlflowException as error:
        where = without_credentials(tracker.uri)
        raise ValueError(f"register.name: {name} at {where}: {error}") from error
    tags = {key: value for key, value in version.tags.items() if not key.startswith("prompt.")}
    found = Registered(number, release.method, release.trial, release.aliases, digest, tags)
    return found, known is None


def promote(
    tracker: Tracker, name: str, versions: Sequence[Registered], policy: Policy
) -> list[Promotion]:
    """Give aliases to their candidates where the policy lets them (`promotion.refusal`).

    The aliases of a sweep go together: where its champion is refused, its compact is, too.
    """
    candidates = {alias: version for version in versions for alias in version.candidate_for}
    champion = candidates[ALIASES[0]]
    holder = alias_version(tracker, name, ALIASES[0])
    tags = tracker.client.get_model_version(name, holder).tags if holder else None
    keeps = holder == champion.version and policy != "never"
    refused = None if keeps else refusal(policy, champion.tags, tags)
    done = []
    for alias in ALIASES:
        candidate, held = candidates[alias].version, alias_version(tracker, name, alias)
        if held == candidate or refused:
            done.append(Promotion(alias, held, candidate, refused if held != candidate else None))
        else:
            tracker.client.set_registered_model_alias(name, alias, candidate)
            done.append(Promotion(alias, candidate, candidate, None))
    return done


def alias_version(tracker: Tracker, name: str, alias: str) -> str | None:
    """Return the version that holds an alias, or None."""
    found = tracker.client.get_registered_model(name).aliases.get(alias)
    return None if found is None else str(found)


def find_version(tracker: Tracker, name: str, digest: str) -> str | None:
    """Return the newest version with this content, or None."""
    found = tracker.client.search_model_versions(
        f"name = '{name}' and tag.content_hash = '{digest}'", order_by=["version_number DESC"]
    )
    return next((str(entry.version) for entry in found if entry.status == "READY"), None)


def create_version(tracker: Tracker, name: str, release: Release) -> str:
    """Log the model to its run below the study's, and make it a version; return its number."""
    parent = study_run(tracker, release.study)
    tags = release.tags | release.prompt_tags | {"content_hash": release.content_hash}
    tags |= run_tags(tracker, release, parent)
    run_id = tracker.open_run(
        f"{release.study}/register/{release.method}", f"register {release.method}", {}, parent
    )
    with mlflow.start_run(run_id=run_id):  # ends it: FINISHED, or FAILED
        metrics = [
            (f"{record.task}/{score}", value, 0)
            for record in release.records
            for score, value in record.scores.items()
        ]
        tracker.log(run_id, tags=tags, metrics=metrics)
        logged = log_model(release)
    if not tracker.client.search_registered_models(f"name = '{name}'"):
        tracker.client.create_registered_model(name, description=DESCRIPTION)
    made = tracker.client.create_model_version(
        name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id
    )
    return str(made.version)


def run_tags(tracker: Tracker, release: Release, parent: str) -> Mapping[str, str]:
    """Return the ids of the runs that made a release; its own is the version's `run_id`."""
    trials = tracker.client.search_runs(
        [tracker.experiment_id],
        f"tags.`{KEY}` LIKE '{release.study}%/{release.trial}'",
        max_results=1,  # the newest
    )
    found = {
        "study_run": parent,
        "trial_run": str(trials[0].info.run_id) if trials else None,
        "evaluate_run": tracker.find_run(f"{release.study}/{release.benchmark['protocol']}"),
    }
    return {name: run_id for name, run_id in found.items() if run_id}


def study_run(tracker: Tracker, study: str) -> str:
    """Return the id of the study's run as it is, or of a new, finished one."""
    found = tracker.find_run(study)
    if not found:
        found = tracker.open_run(study, study, {})
        tracker.close_run(found)
    return found
