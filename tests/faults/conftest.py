"""A project that is ready to sweep."""

import shutil
from pathlib import Path

import pytest

from tests.faults.states import N_TRIALS
from tests.helpers.projects import clone, run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with features, and a sweep that takes some seconds."""
    folder = clone(
        tmp_path_factory.mktemp("prepared") / "loqua",
        sweep__n_trials=N_TRIALS,
        train__fast__min_steps=60,
        train__rounds=3,
    )
    run(folder, "dvc", "repro", "features")
    return folder


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(prepared, tmp_path / "loqua", symlinks=True))
