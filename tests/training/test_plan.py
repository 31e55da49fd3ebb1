"""Every configuration is refit once, with the seeds that its names ask for."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.params import load_params
from pipeline.prompts.config import PromptConfig
from pipeline.training.plan import Plan, front, make_plan
from pipeline.training.records import TrialRecord, Winners
from pipeline.training.settings import Configuration
from tests.helpers.toy import train_config

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def configuration(rank: int, lr: float = 0.1) -> Configuration:
    prompt = PromptConfig(init="a photo of a", rank=rank, bits=2, n_ctx=4)
    return Configuration(prompt, train_config(4, lr=lr))


def record(number: int, **settings: Any) -> TrialRecord:
    score = number / 10
    settings = settings or {"prompt.rank": number}
    return TrialRecord(number, settings, score, score, score, number, {}, [], 1.0)


@pytest.fixture
def chosen() -> Winners:
    winners = {"champion": record(3), "compact": record(3), "coop": record(5, method="coop")}
    return Winners("s", winners, [record(n) for n in (1, 2, 3)], {"champion": {"b": record(4)}})


def test_members_take_the_name_of_their_first_role(chosen: Winners) -> None:
    members = front(chosen, everyone=True)
    assert [m.method for m in members] == ["pareto-1", "pareto-2", "champion"]
    assert [m.roles for m in members] == [(), (), ("champion", "compact")]
    assert [m.trial for m in members] == [1, 2, 3]
    assert [m.method for m in front(chosen, everyone=False)] == ["champion"]


def test_the_plan_has_what_is_asked_for(chosen: Winners) -> None:
    def planned(**asked: Any) -> Plan:
        config = PARAMS.evaluate.model_copy(update={"methods": ["maple"], **asked})
        return make_plan(PARAMS.resolver, config, ["a", "b"], chosen)

    plan = planned(per_task=False, pareto=False)
    plain = ["zero_shot", "zero_shot_own"]
    assert plan.methods == [*plain, "champion", "compact", "coop", "maple"]
    assert plan.wanted["champion"]["b"].prompt.rank == 3
    assert (plan.largest("n_ctx"), plan.largest("depth")) == (4, 4), "MaPLe is deep"
    plan = planned(per_task=True, pareto=True)
    assert plan.methods[-3:] == ["maple", "pareto-1", "pareto-2"]
    assert {task: one.prompt.rank for task, one in plan.wanted["champion_per_task"].items()} == {
        "b": 4
    }


def test_equal_configurations_are_fit_once() -> None:
    one, two, three = configuration(1), configuration(2), configuration(3)
    wanted = {
        "champion": {"a": one, "b": one},
        "compact": {"a": one, "b": one},
        "champion_per_task": {"a": one, "b": two},
    }
    extra = {"pareto-1": {"a": two, "b": two}, "pareto-2": {"a": three, "b": three}}
    planned = Plan(wanted, extra).fits(["a", "b"], shots=[1, 4], seeds=[7, 8])
    found = {
        (p.fit.task, p.fit.shots, p.fit.prompt.rank): (p.fit.seeds, p.methods) for p in planned
    }
    assert len(found) == len(planned)
    assert found == {
        ("a", 1, 1): ((7, 8), ("champion", "compact", "champion_per_task")),
        ("a", 4, 1): ((7, 8), ("champion", "compact", "champion_per_task")),
        ("b", 1, 1): ((7, 8), ("champion", "compact")),
        ("b", 4, 1): ((7, 8), ("champion", "compact")),
        ("b", 1, 2): ((7, 8), ("champion_per_task",)),
        ("b", 4, 2): ((7, 8), ("champion_per_task", "pareto-1")),
        ("a", 4, 2): ((7,), ("pareto-1",)),
        ("a", 4, 3): ((7,), ("pareto-2",)),
        ("b", 4, 3): ((7,), ("pareto-2",)),
    }


def test_another_learning_rate_is_another_fit() -> None:
    wanted = {"x": {"a": configuration(1, 0.1)}, "y": {"a": configuration(1, 0.2)}}
    assert len(Plan(wanted).fits(["a"], [1], [1])) == 2
