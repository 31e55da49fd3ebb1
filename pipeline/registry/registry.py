"""Configurations as registered MLflow models: built, logged, versioned, found, and promoted.

A version holds the prompts of all tasks of one configuration, and is made once for the same
content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient

from pipeline.core.urls import without_credentials
from pipeline.registry.config import Policy
from pipeline.registry.mlflow_model import log_model
from pipeline.registry.promotion import ALIASES, refusal
from pipeline.registry.release import Release, content_hash, load_abouts, version_tags
from pipeline.registry.version_card import version_card
from pipeline.serving.predictor import Predictor, load_model_files
from pipeline.tracking.tracker import KEY, Tracker

DESCRIPTION = """Soft prompts for CLIP, by Loqua. Each version is one configuration of the Pareto
front of score and bytes; `champion` has the best validation score, `compact` is the smallest close
to it."""
ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `is_new` tells whether this call made it."""

    method: str
    version: str
    content_hash: str
    is_new: bool
    tags: dict[str, str]


@dataclass(frozen=True)
class Promotion:
    """What became of an alias: the version that holds it now, and why another does not."""

    alias: str
    holder: str | None
    candidate: str
    refused: str | None


def register(
    tracker: Tracker, name: str, release: Release, licenses: Sequence[str] = ()
) -> Registered:
    """Make sure that the release is a version of model `name`; no alias is touched.

    Repeating it with the same content creates no run and no version, and changes none.

    Raises:
        ValueError: if a prompt file does not fit the release, or the registry refuses.
    """
    abouts = load_abouts(release)
    digest = content_hash(release)
    try:
        known = find_version(tracker, name, digest)
        number = known or create_version(tracker, name, release, abouts, digest)
        version = tracker.client.get_model_version(name, number)
        if not version.description:  # new, or its author was stopped here
            card = version_card(name, number, release, version.tags, licenses)
            tracker.client.update_model_version(name, number, description=card)
    except MlflowException as error:
        raise ValueError(
            f"register.name: {name} at {without_credentials(tracker.uri)}: {error}"
        ) from error
    return Registered(release.method, number, digest, not known, version.tags)


def promote(
    tracker: Tracker, name: str, candidates: Mapping[str, Registered], policy: Policy
) -> list[Promotion]:
    """Give aliases to versions where the policy lets them (`promotion.refusal`).

    The aliases of a sweep go together: where its champion is refused, its compact is, too.

    Args:
        tracker: the registry.
        name: of the registered model.
        candidates: by alias, champion included.
        policy: `register.promote`.
    """
    champion = candidates[ALIASES[0]]
    holder = alias_version(tracker, name, ALIASES[0])
    tags = tracker.client.get_model_version(name, holder).tags if holder else None
    keeps = holder == champion.version and policy != "never"
    refused = None if keeps else refusal(policy, champion.tags, tags)
    done = []
    for alias in ALIASES:
        candidate, held = candidates[alias].version, alias_version(tracker, name, alias)
        if held == candidate:
            done.append(Promotion(alias, held, candidate, None))
        elif refused:
            done.append(Promotion(alias, held, candidate, refused))
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
    ready = [str(entry.version) for entry in found if entry.status == "READY"]
    return ready[0] if ready else None


def create_version(
    tracker: Tracker, name: str, release: Release, abouts: dict[str, dict[str, Any]], digest: str
) -> str:
    """Log the model to its run below the study's, and make it a version; return its number."""
    parent = study_run(tracker, release.study)
    tags = version_tags(release, abouts) | {"content_hash": digest}
    tags |= run_tags(tracker, release, parent)
    run_id = tracker.open_run(
        f"{release.study}/register/{release.method}", f"register {release.method}", {}, parent
    )
    with mlflow.start_run(run_id=run_id):  # ends it: FINISHED, or FAILED
        tracker.log(
            run_id,
            tags=tags,
            metrics=[
                (f"{task}/{score}", value, 0)
                for task, about in abouts.items()
                for score, value in about["scores"].items()
            ],
        )
        logged = log_model(release)
    if not tracker.client.search_registered_models(f"name = '{name}'"):
        tracker.client.create_registered_model(name, description=DESCRIPTION)
    made = tracker.client.create_model_version(
        name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id
    )
    return str(made.version)


def run_tags(tracker: Tracker, release: Release, parent: str) -> dict[str, str]:
    """Return the ids of the runs that made a release; its own is the version's `run_id`."""
    protocol = release.benchmark["protocol"]
    found = {
        "study_run": parent,
        "trial_run": trial_run(tracker, release),
        "evaluate_run": tracker.find_run(f"{release.study}/{protocol}"),
    }
    return {name: run_id for name, run_id in found.items() if run_id}


def trial_run(tracker: Tracker, release: Release) -> str | None:
    """Return the id of the newest run whose key begins with the study and ends with the trial."""
    key = f"{release.study}%/{release.trial}"
    found = tracker.client.search_runs(
        [tracker.experiment_id], f"tags.`{KEY}` LIKE '{key}'", max_results=1
    )
    return str(found[0].info.run_id) if found else None


def study_run(tracker: Tracker, study: str) -> str:
    """Return the id of the study's run as it is, or of a new, finished one."""
    found = tracker.find_run(study)
    if found:
        return found
    run_id = tracker.open_run(study, study, {})
    tracker.close_run(run_id)
    return run_id


def load_model(model_uri: str) -> PyFuncModel:
    """Return a registered model, ready to predict.

    It is loaded once per version: an alias is looked up every time, so that it may move.

    Raises:
        ValueError: if there is no such model.
    """
    try:
        return load_version(mlflow.get_registry_uri(), fixed_uri(model_uri))
    except MlflowException as error:
        where = without_credentials(mlflow.get_registry_uri())
        raise ValueError(f"{model_uri}: not to be had at {where}: {error.message}") from None


def fixed_uri(model_uri: str) -> str:
    """Return a URI that always means the same version: aliases and `latest` are looked up."""
    if found := ALIAS.fullmatch(model_uri):
        entry = MlflowClient().get_model_version_by_alias(**found.groupdict())
    elif model_uri.startswith("models:/") and model_uri.endswith("/latest"):
        name = model_uri.removeprefix("models:/").removesuffix("/latest")
        newest = MlflowClient().search_model_versions(
            f"name = '{name}'", max_results=1, order_by=["version_number DESC"]
        )
        if not newest:
            raise MlflowException(f"no version of {name}")
        entry = newest[0]
    else:
        return model_uri
    return f"models:/{entry.name}/{entry.version}"


def load_predictor(model_uri: str) -> Predictor:
    """Return the prompts of a registered model without MLflow around them: for many pictures.

    It reads the version's files with this project's code, so versions of older code work, too.

    Raises:
        ValueError: if there is no such model, or its towers are not there.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(fixed_uri(model_uri))) / "artifacts"
    except (MlflowException, OSError) as error:
        where = without_credentials(mlflow.get_registry_uri())
        raise ValueError(f"{model_uri}: not to be had at {where}: {error}") from None
    if not (folder / "model.json").is_file():
        raise ValueError(f"{model_uri}: no model of Loqua")
    towers = folder / "backbone"
    return load_model_files(folder, towers if towers.is_dir() else None)


@lru_cache(maxsize=4)
def load_version(registry_uri: str, model_uri: str) -> PyFuncModel:  # noqa: ARG001 (part of the key)
    """Load a model that no longer changes."""
    model: PyFuncModel = mlflow.pyfunc.load_model(model_uri)
    return model
