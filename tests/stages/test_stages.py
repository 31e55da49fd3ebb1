"""The shipped files agree with each other."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import report_all, run_stage

ROOT = Path(__file__).parents[2]
DECLARED = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = {name: stage.get("do", stage) for name, stage in DECLARED.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_script_with_its_own_outputs(stage: str) -> None:
    for_each_task = DECLARED[stage].get("foreach") == "${tasks}"
    argument = " ${item}" if for_each_task else ""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}{argument}"
    assert (ROOT / "stages" / f"{stage}.py").is_file()
    outputs = [
        next(iter(out)) if isinstance(out, dict) else out
        for out in STAGES[stage].get("outs", []) + STAGES[stage].get("metrics", [])
    ]
    assert outputs
    assert all(out.startswith(f"artifacts/{stage}") for out in outputs)
    assert all(("${item}" in out) == for_each_task for out in outputs)


@pytest.mark.parametrize("stage", ["sources", "prepare"])
def test_stages_that_run_often_load_no_framework(stage: str) -> None:
    heavy = "{'mlflow', 'open_clip', 'optuna', 'ray', 'torchvision'}"
    code = f"import sys, stages.{stage}; print(*{heavy} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_and_parameters_exist(stage: str) -> None:
    made = [next(iter(out)) if isinstance(out, dict) else out
            for other in STAGES.values() for out in other["outs"]]  # fmt: skip
    for dependency in STAGES[stage].get("deps", []):
        inside = any(Path(out).is_relative_to(dependency) for out in made)
        below = any(Path(dependency).is_relative_to(out) for out in made)
        assert inside or below or (ROOT / dependency).exists(), dependency
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    for name in STAGES[stage]["params"]:
        for source in ("emoji", "coop", "folder", "table"):
            value = params
            place = name.replace("${prepare.source}", source)
            for part in place.replace("${sweep.preset}", params["sweep"]["preset"]).split("."):
                value = value[part]


def test_pretraining_is_frozen() -> None:
    assert STAGES["pretrain"]["frozen"] is True
    assert all(out[next(iter(out))]["cache"] is False for out in STAGES["pretrain"]["outs"])


def test_committed_backbone_is_the_locked_one() -> None:
    locked = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]["pretrain"]
    for out in locked["outs"]:
        assert hashlib.md5((ROOT / out["path"]).read_bytes()).hexdigest() == out["md5"]


def test_a_mistake_is_one_line_and_a_defect_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mistake() -> None:
        raise ValueError("params.yaml: sweep: found 1; allowed is 2")

    def defect() -> None:
        raise KeyError("ours")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_stage(mistake)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: params.yaml: sweep: found 1; allowed is 2\n"
    with pytest.raises(SystemExit) as stopped:
        run_stage(interrupted)
    assert stopped.value.code == 130
    with pytest.raises(KeyError):
        run_stage(defect)


def test_long_lists_of_problems_are_cut() -> None:
    report_all("nothing wrong", [])
    with pytest.raises(ValueError, match="and 5 more") as caught:
        report_all("title", [f"problem {i}" for i in range(25)])
    assert str(caught.value).count("\n") == 21
