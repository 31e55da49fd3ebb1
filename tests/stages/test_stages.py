"""The shipped files agree with each other."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.code import imported

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


@pytest.mark.parametrize("stage", ["sweep", "evaluate", "report"])
def test_inputs_are_loaded_in_one_place_which_checks_them(stage: str) -> None:
    own = imported(f"stages.{stage}")
    assert "pipeline.training.inputs" in own
    assert not own & {"pipeline.features.files", "pipeline.features.loader"}


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
