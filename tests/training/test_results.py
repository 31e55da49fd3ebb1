"""Results are a record: what is read is what was written, and all of it names its maker."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clip.backbone import Backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.encoders import TextSide
from pipeline.core import paths
from pipeline.core.files import load_record, save_record
from pipeline.core.provenance import Origin
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.file import load_prompt
from pipeline.training.config import InputsConfig, ProtocolConfig
from pipeline.training.evaluation import make_results, save_prompts
from pipeline.training.inputs import Inputs
from pipeline.training.plan import Plan, front
from pipeline.training.records import Measurement, TrialRecord, Winners
from pipeline.training.refit import BASE_TO_NEW, EvaluationJob, Fit, refit
from pipeline.training.results import Results, scores
from pipeline.training.settings import Configuration
from tests.helpers.toy import features_config, train_config

PROMPT = PromptConfig(init="a photo of a", rank=1, bits=2, n_ctx=4)
TRAIN = train_config(4, lr=0.1, rounds=2)
FIT = Fit("champion", "toy", 2, PROMPT, TRAIN, seeds=(1, 2))
MADE_BY = Origin("abc-dirty", "c0de")
TRIAL = TrialRecord(7, {"prompt.rank": 1}, 0.5, 0.5, 0.5, 64, {}, [], 1.0)
CHOSEN = Winners("sweep-1", {"champion": TRIAL}, [replace(TRIAL, number=6), TRIAL], {})


@pytest.fixture
def inputs(text: TextSide, features: TaskFeatures, backbone: Backbone) -> Inputs:
    config = BackboneConfig(name="tiny", pretrained=None)
    return Inputs(
        InputsConfig(config, features_config(), Path(), "a photo of a"),
        backbone,
        text,
        {"toy": features},
    )


@pytest.fixture
def measured(inputs: Inputs) -> list[Measurement]:
    found, _ = refit(EvaluationJob(inputs.text, inputs.tasks, BASE_TO_NEW), FIT)
    return found


def test_results_come_back_as_they_were_written(
    inputs: Inputs, measured: list[Measurement], tmp_path: Path
) -> None:
    rest = [replace(one, method="pareto-6") for one in measured[:2]]
    same = {"toy": Configuration(PROMPT, TRAIN)}
    plan = Plan({"champion": same}, {"pareto-6": same}, front(CHOSEN, everyone=True))
    results = make_results(inputs, MADE_BY, CHOSEN, "base_to_new", plan, [*rest, *measured[::-1]])
    path = tmp_path / "results.json"
    save_record(path, results)
    assert load_record(path, Results) == results
    assert [one.seed for one in results.measurements] == [1] * 4 + [2] * 4
    assert (results.pareto.measurements, list(results.data)) == (rest, ["toy"])
    assert [one.method for one in results.pareto.members] == ["pareto-6", "champion"]
    made = json.loads(path.read_text())["provenance"]
    assert {key: made[key] for key in ("git_commit", "code", "backbone", "data_hash")} == {
        "git_commit": "abc-dirty",
        "code": "c0de",
        "backbone": inputs.backbone.fingerprint,
        "data_hash": inputs.data_hash,
    }
    assert results.averages["champion/size_bytes"] == measured[0].size_bytes
    base = [one.accuracy for one in measured if (one.side, one.domain) == ("base", "shots")]
    assert results.averages["champion/base/shots/2_shots"] == pytest.approx(sum(base) / 2)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"study": "s"}'])
def test_a_damaged_record_is_an_error_with_its_name(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json: cannot be read .*`dvc repro`"):
        load_record(path, Results)


@pytest.mark.parametrize("protocol", [BASE_TO_NEW, ProtocolConfig(train="all", test="all")])
def test_a_prompt_says_what_it_reached_and_what_made_it(
    inputs: Inputs, protocol: ProtocolConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured, prompts = refit(EvaluationJob(inputs.text, inputs.tasks, protocol), FIT)
    save_prompts(inputs, MADE_BY, FIT, measured, prompts)
    for seed, prompt in zip(FIT.seeds, prompts, strict=True):
        path = paths.prompt_path("champion", "toy", seed)
        _, about = load_prompt(path, inputs.backbone.fingerprint)
        assert about["scores"] == scores([one for one in measured if one.seed == seed])
        assert about["origin"] == {"git_commit": "abc-dirty", "code": "c0de"}
        assert about["settings"]["prompt"] == PROMPT.model_dump()
        assert about["size_bytes"] == prompt.size_bytes
        assert about["class_names"] == list(inputs.tasks["toy"].class_names)
