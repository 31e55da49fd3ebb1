"""Every configuration is refit once, with the seeds that its names ask for."""

from pipeline.prompts.config import PromptConfig
from pipeline.training.plan import Configuration, front, plan_fits
from tests.helpers.toy import train_config


def configuration(rank: int, lr: float = 0.1) -> Configuration:
    return PromptConfig(init="a photo of a", rank=rank, bits=2, n_ctx=4), train_config(4, lr=lr)


def record(number: int) -> dict[str, object]:
    score = number / 10
    return {
        "number": number, "settings": {"prompt.rank": number}, "score": score, "base": score,
        "new": score, "size_bytes": number, "tasks": {}, "history": [], "seconds": 1.0,
    }  # fmt: skip


def test_members_take_the_name_of_their_first_role() -> None:
    winners = {"champion": record(3), "compact": record(3), "coop": record(5)}
    chosen = {"winners": winners, "pareto": [record(n) for n in (1, 2, 3)]}
    members = front(chosen, everyone=True)
    assert [m.method for m in members] == ["pareto-1", "pareto-2", "champion"]
    assert [m.roles for m in members] == [(), (), ("champion", "compact")]
    assert [m.method for m in front(chosen, everyone=False)] == ["champion"]
    assert members[2].describe()["trial"] == 3


def test_equal_configurations_are_fit_once() -> None:
    one, two, three = configuration(1), configuration(2), configuration(3)
    tasks, shots, seeds = ["a", "b"], [1, 4], [7, 8]
    wanted = {
        "champion": {"a": one, "b": one},
        "compact": {"a": one, "b": one},
        "champion_per_task": {"a": one, "b": two},
    }
    extra = {"pareto-1": {"a": two, "b": two}, "pareto-2": {"a": three, "b": three}}
    planned = plan_fits(wanted, tasks, shots, seeds, extra)
    told = {(p.fit.task, p.fit.shots, p.fit.prompt.rank): (p.fit.seeds, p.methods) for p in planned}
    assert len(told) == len(planned)
    assert told == {
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
    assert len(plan_fits(wanted, ["a"], [1], [1], {})) == 2
