"""Registered models, loaded: by MLflow, or as a predictor without MLflow around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient

from pipeline.core.urls import without_credentials
from pipeline.serving.predictor import Predictor, load_model_files

ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")


def load_model(model_uri: str) -> PyFuncModel:
    """Return a registered model, ready to predict.

    It is loaded once per version: an alias is looked up every time, so that it may move.

    Raises:
        ValueError: if there is no such model.
    """
    with named(model_uri):
        return load_version(mlflow.get_registry_uri(), fixed_uri(model_uri))


def load_predictor(model_uri: str) -> Predictor:
    """Return the prompts of a registered model without MLflow around them.

    It reads the version's files with this project's code, so versions of older code work, too.

    Raises:
        ValueError: if there is no such model, or its towers are not there.
    """
    with named(model_uri):
        folder = Path(mlflow.artifacts.download_artifacts(fixed_uri(model_uri))) / "artifacts"
    if not (folder / "model.json").is_file():
        raise ValueError(f"{model_uri}: not a model of Loqua")
    towers = folder / "backbone"
    return load_model_files(folder, towers if towers.is_dir() else None)


@contextmanager
def named(model_uri: str) -> Iterator[None]:
    """Name the model and the registry in errors of MLflow.

    Raises:
        ValueError: in place of them.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        where = without_credentials(mlflow.get_registry_uri())
        raise ValueError(f"{model_uri}: not found at {where}: {error}") from None


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


@lru_cache(maxsize=4)
def load_version(registry_uri: str, model_uri: str) -> PyFuncModel:  # noqa: ARG001 (part of the key)
    """Load a model that no longer changes."""
    model: PyFuncModel = mlflow.pyfunc.load_model(model_uri)
    return model
