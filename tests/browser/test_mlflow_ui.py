"""The MLflow UI over a real sweep: what a newcomer looks for is there and drawn."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, Page

from pipeline.tracking.views import view_path
from tests.browser.browsing import PATIENCE_MS, Shot

pytestmark = pytest.mark.browser


@pytest.fixture
def sweep(project: Path) -> tuple[str, str, str]:
    """The ids of experiment, study and run."""
    study = json.loads((project / "artifacts/sweep/trials.json").read_text())["study"]
    uri = f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("loqua").experiment_id
    [found] = client.search_runs([experiment], f"tags.`loqua.key` = '{study}'")
    return experiment, study, found.info.run_id


@pytest.fixture
def page(browser: Browser) -> Page:
    """A wide window."""
    made = browser.new_context(viewport={"width": 1720, "height": 1000}).new_page()
    made.set_default_timeout(PATIENCE_MS)
    return made


def test_the_saved_view_shows_trials_with_score_and_settings(
    page: Page, mlflow_ui: str, sweep: tuple[str, str, str], shot: Shot
) -> None:
    experiment, study, _ = sweep
    page.goto(mlflow_ui + view_path(experiment, study))
    page.get_by_text("12 matching runs").wait_for()
    heads = page.locator("[role=columnheader]")
    for name in ("score", "size_bytes", "base", "new"):
        heads.get_by_text(name, exact=True).first.wait_for()
    shot(page, "mlflow-trials")


def test_parallel_coordinates_draw_over_the_sweeps_axes(
    page: Page, mlflow_ui: str, sweep: tuple[str, str, str], shot: Shot
) -> None:
    experiment, study, _ = sweep
    page.goto(mlflow_ui + view_path(experiment, study, charts=True))
    page.get_by_text("prompt.n_ctx").first.wait_for()
    for axis in ("rank", "prompt.bits", "train.lr"):
        page.locator("svg").get_by_text(axis, exact=True).first.wait_for()
    shot(page, "mlflow-charts")


def test_the_sweeps_run_shows_its_figures(
    page: Page, mlflow_ui: str, sweep: tuple[str, str, str], shot: Shot
) -> None:
    experiment, _, run_id = sweep
    page.goto(f"{mlflow_ui}#/experiments/{experiment}/runs/{run_id}")
    page.get_by_text("One sweep.").first.wait_for()
    shot(page, "mlflow-sweep")
    figure = f"runs/{run_id}/artifacts/figures/size.png"
    page.goto(f"{mlflow_ui}#/experiments/{experiment}/{figure}")
    image = page.locator("img[src^='blob:'], img[src*='size.png']").first
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 0
    shot(page, "mlflow-figure")


def test_the_model_has_its_aliases(page: Page, mlflow_ui: str, shot: Shot) -> None:
    page.goto(f"{mlflow_ui}#/models/loqua-emoji")
    for alias in ("champion", "compact"):
        page.get_by_text(alias).first.wait_for()
    shot(page, "mlflow-model")
