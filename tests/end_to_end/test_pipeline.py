"""The whole pipeline, small, as a user runs it: real DVC, Ray, Optuna, MLflow, open_clip."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.helpers.projects import N_TRIALS, clean_environment, edit_params, run


def stages_run(printed: str) -> list[str]:
    """The stages that DVC ran, from what it printed."""
    return re.findall(r"Running stage '([^']+)'", printed)


def load(project: Path, name: str) -> dict:
    return json.loads((project / "artifacts" / name).read_text())


def test_interrupted_sweep_keeps_its_trials_and_goes_on(project: Path) -> None:
    run(project, "dvc", "repro", "features")
    sweep = subprocess.Popen(
        [sys.executable, "-m", "stages.sweep"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**clean_environment(), "PYTHONPATH": str(project), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )  # fmt: skip
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if line.strip().startswith("1/"):
            break
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, output
    assert "interrupted" in output

    resumed = run(project, sys.executable, "-m", "stages.sweep").stdout
    known = re.search(r"(\d+) of \d+ trials known", resumed)
    assert known is not None, resumed
    assert 1 <= int(known[1]) < N_TRIALS, resumed
    trials = load(project, "sweep/trials.json")["trials"]
    assert len(trials) == N_TRIALS
    settings = [json.dumps(trial["settings"], sort_keys=True) for trial in trials]
    assert len(set(settings)) == N_TRIALS, "a configuration was repeated"


def test_whole_pipeline(project: Path, finished: str) -> None:
    assert "champion" in finished
    found = load(project, "evaluate/results.json")["measurements"]
    methods = {one["method"] for one in found}
    assert {"zero_shot", "coop", "compact", "champion"} == methods
    assert all(0 <= one["accuracy"] <= 1 for one in found)
    places = {(one["side"], one["domain"]) for one in found}
    assert places == {(s, d) for s in ("base", "new") for d in ("shots", "held-out")}
    assert "HM of the averages" in (project / "artifacts/report/tables/averages.md").read_text()
    assert run(project, "git", "status", "--porcelain", "artifacts").stdout == ""
    for name in ("report.md", "report.html", "metrics.json"):
        assert (project / "artifacts/report" / name).stat().st_size > 0


def test_pretraining_is_skipped(project: Path, finished: str) -> None:
    assert "stages.pretrain" not in finished
    assert run(project, "git", "status", "--porcelain", "artifacts/pretrain").stdout == ""


def test_second_repro_only_looks_at_the_data(project: Path, finished: str) -> None:
    assert finished
    assert stages_run(run(project, "dvc", "repro").stdout) == ["sources"]


def test_dvc_shows_metrics_and_plots_and_parameter_changes(project: Path, finished: str) -> None:
    assert finished
    assert "champion" in run(project, "dvc", "metrics", "show").stdout
    assert "index.html" in run(project, "dvc", "plots", "show").stdout
    edit_params(project, train__momentum=0.8)
    assert "train.momentum" in run(project, "dvc", "params", "diff").stdout
    edit_params(project, train__momentum=0.9)


def test_every_trial_is_a_nested_run(project: Path, finished: str) -> None:
    assert finished
    uri = f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("loqua")
    runs = client.search_runs([experiment.experiment_id])
    trials = load(project, "sweep/trials.json")
    [parent] = [r for r in runs if r.data.tags.get("loqua.key") == trials["study"]]
    nested = [
        r
        for r in runs
        if r.data.tags.get("loqua.key", "").startswith(trials["study"] + "/")
        and r.data.tags["loqua.key"].rpartition("/")[2].isdigit()
    ]
    assert len(nested) == N_TRIALS
    assert all(r.info.status == "FINISHED" for r in runs)
    for nested_run in nested:
        assert nested_run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert {"prompt.rank", "prompt.bits", "prompt.n_ctx", "train.lr"} <= set(
            nested_run.data.params
        )
        assert {"score", "base", "new", "loss", "size_bytes"} <= set(nested_run.data.metrics)
        assert {"git_commit", "data_hash", "seeds"} <= set(nested_run.data.tags)
        history = client.get_metric_history(nested_run.info.run_id, "score")
        assert [metric.step for metric in history] == [1, 2]


def test_registered_model_reproduces_its_accuracy_in_a_fresh_process(
    project: Path, finished: str, tmp_path: Path
) -> None:
    assert finished
    uri = f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    client = MlflowClient(uri, uri)
    for alias in ("champion", "compact"):
        assert client.get_model_version_by_alias("loqua-emoji", alias)
    script = tmp_path / "predict.py"
    script.write_text(
        "import base64, json, sys\n"
        "import mlflow, pandas as pd\n"
        "from pipeline.data.classes import split_base_new\n"
        "from pipeline.data.manifest import load_manifest\n"
        "from pathlib import Path\n"
        "manifest = load_manifest(Path('artifacts/prepare/food-drink.parquet'))\n"
        "base, _ = split_base_new(range(len(manifest.class_names)))\n"
        "rows = manifest.rows\n"
        "rows = rows[(rows.split == 'test') & rows.label.isin(base)"
        " & (rows.domain != 'emojione')]\n"
        "model = mlflow.pyfunc.load_model('models:/loqua-emoji@champion')\n"
        "images = [base64.b64encode(i['bytes']).decode() for i in rows.image]\n"
        "names = [manifest.class_names[label] for label in base]\n"
        "params = {'task': 'food-drink', 'classes': names}\n"
        "answer = model.predict(pd.DataFrame({'image': images}), params=params)\n"
        "print(json.dumps((answer['class_name'].values == rows.class_name.values).mean()))\n"
    )
    printed = run(
        project, sys.executable, str(script), MLFLOW_TRACKING_URI=uri,
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    ).stdout  # fmt: skip
    accuracy = json.loads(printed.strip().splitlines()[-1])
    wanted = {"method": "champion", "target": "food-drink", "seed": 1, "side": "base"}
    [one] = [
        one
        for one in load(project, "evaluate/results.json")["measurements"]
        if wanted.items() <= one.items() and one["domain"] == "shots"
    ]
    assert accuracy == pytest.approx(one["accuracy"], abs=1e-9)


def test_every_pareto_winner_is_a_version_and_registering_again_makes_nothing_new(
    project: Path, finished: str
) -> None:
    assert finished
    uri = f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("loqua").experiment_id
    pareto = load(project, "sweep/winners.json")["pareto"]
    results = load(project, "evaluate/results.json")
    extra = {one["method"] for one in results["pareto"]["measurements"]}
    members = {m["method"] for m in results["pareto"]["members"] if not m["roles"]}
    assert extra == members, "only what has no role stands apart"
    assert {one["seed"] for one in results["pareto"]["measurements"]} <= {1}

    def state() -> tuple[object, ...]:
        found = client.search_model_versions("name = 'loqua-emoji'")
        versions = [client.get_model_version("loqua-emoji", entry.version) for entry in found]
        return [dict(one) for one in versions], len(client.search_runs([experiment]))

    before = state()
    assert {one["tags"]["trial"] for one in before[0]} == {str(one["number"]) for one in pareto}
    for one in before[0]:
        assert one["description"].startswith(f"# loqua-emoji, version {one['version']}")
        for link in ("study_run", "trial_run", "evaluate_run"):
            assert client.get_run(one["tags"][link]).info.status == "FINISHED"
    printed = run(project, sys.executable, "-m", "stages.register").stdout
    assert "(new)" not in printed
    assert "models:/loqua-emoji@champion: version" in printed
    assert state() == before


def test_a_folder_is_predicted_by_the_champion(project: Path, finished: str) -> None:
    assert finished
    table = pd.read_parquet(project / "artifacts/prepare/food-drink.parquet")
    folder = project / "artifacts" / "pictures"
    folder.mkdir()
    for index, image in enumerate(table["image"][:5]):
        (folder / f"{index}.png").write_bytes(image["bytes"])
    command = ("-m", "pipeline.cli", "predict", str(folder), "--out", "artifacts/answers.csv")
    run(project, sys.executable, *command, "--task", "food-drink")
    answers = pd.read_csv(project / "artifacts/answers.csv")
    assert len(answers) == 5
    assert set(answers["class_name"]) <= set(table["class_name"])


@pytest.mark.parametrize("stage", ["sweep", "evaluate", "report"])
def test_a_stage_refuses_features_of_other_settings(
    project: Path, finished: str, stage: str
) -> None:
    assert finished
    edit_params(project, features__views=3)
    try:
        done = run(project, sys.executable, "-m", f"stages.{stage}", check=False)
    finally:
        run(project, "git", "checkout", "params.yaml")
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("error: ") :]
    assert error.startswith("error: features are out of date; run `dvc repro features`\n")
    assert "activities.safetensors: made with features.views 1; expected 3" in error
    assert "Traceback" not in error


def test_another_protocol_keeps_the_sweep_and_named_methods_are_tested(
    project: Path, finished: str
) -> None:
    assert finished
    edit_params(
        project,
        protocol="cross_dataset",
        protocols__cross_dataset__source="activities",
        evaluate__methods=["qmaple"],
        evaluate__per_task=True,
    )
    try:
        printed = run(project, "dvc", "repro", "report").stdout
    finally:
        run(project, "git", "checkout", "params.yaml")
    assert "stages.evaluate" in printed
    assert "stages.sweep" not in printed
    found = load(project, "evaluate/results.json")["measurements"]
    assert {one["source"] for one in found} == {"activities"}
    assert {one["target"] for one in found} == {"activities", "food-drink"}
    methods = {one["method"] for one in found}
    assert methods >= {"qmaple", "champion", "champion_per_task", "zero_shot"}
    assert "QMaPLe" in (project / "artifacts/report/tables/transfer.md").read_text()
    assert "food-drink" in (project / "artifacts/report/report.html").read_text()


def test_more_trials_continue_the_same_study(project: Path, finished: str) -> None:
    assert finished
    before = load(project, "sweep/trials.json")
    edit_params(project, sweep__n_trials=N_TRIALS + 1)
    printed = run(project, sys.executable, "-m", "stages.sweep").stdout
    edit_params(project, sweep__n_trials=N_TRIALS)
    assert f"{N_TRIALS} of {N_TRIALS + 1} trials known" in printed
    after = load(project, "sweep/trials.json")
    assert after["study"] == before["study"]
    assert after["trials"][:N_TRIALS] == before["trials"]


def test_second_sweep_is_refused_while_one_runs(project: Path, finished: str) -> None:
    assert finished
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import time; from pathlib import Path; from pipeline.core.locks import exclusive\n"
         "with exclusive(Path('artifacts/state/sweep.lock'), 'x'):\n"
         "    print('held', flush=True); time.sleep(120)"],
        cwd=project, stdout=subprocess.PIPE, text=True, env={**os.environ,
                                                             "PYTHONPATH": str(project)},
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = run(project, sys.executable, "-m", "stages.sweep", check=False)
    finally:
        holder.kill()
        holder.wait()
    assert refused.returncode == 1
    assert "another sweep is running" in refused.stderr


def test_server_that_does_not_answer_is_an_error_before_the_sweep(project: Path) -> None:
    done = run(
        project, sys.executable, "-m", "stages.sweep", check=False,
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_change_in_one_tasks_data_runs_that_task_again(project: Path, finished: str) -> None:
    assert finished
    drawings = project / "data/emoji.parquet"
    before = drawings.read_bytes()
    table = pd.read_parquet(drawings)
    chosen = (table["group"] == "activities") & (table["style"] == "noto")
    table.loc[chosen, "svg"] = table.loc[chosen, "svg"].to_numpy()[::-1]
    table.to_parquet(drawings)
    printed = run(project, "dvc", "repro", "features").stdout
    assert stages_run(printed) == ["sources", "prepare@activities", "features@activities"]
    drawings.write_bytes(before)
    printed = run(project, "dvc", "repro", "features@food-drink").stdout
    assert stages_run(printed) == ["sources"]
