"""Settings become the configuration that they name, and nothing else."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.settings import flatten, nest
from pipeline.params import load_params
from pipeline.training.settings import Resolver

SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    return load_params(SHIPPED).resolver


def test_settings_reach_nested_sections_and_no_other_value(resolver: Resolver) -> None:
    settings = {"prompt.rank": 2, "train.coop.epochs": 7, "prompt.quantizer.interval": 3}
    changed = resolver.resolve(settings)
    plain = flatten({"prompt": resolver.prompt.model_dump(), "train": resolver.train.model_dump()})
    found = flatten({name: part.model_dump() for name, part in changed._asdict().items()})
    assert found == {**plain, **settings}
    assert resolver.resolve({}) == (resolver.prompt, resolver.train)


@pytest.mark.parametrize(
    "name", ["train.steps", "train.fast", "train.fast.step", "lr", "sweep.shots"]
)
def test_an_unknown_name_is_refused(resolver: Resolver, name: str) -> None:
    expected = f"{name}: unknown key; expected method or one of .*train.fast.stride"
    with pytest.raises(ValueError, match=expected):
        resolver.resolve({name: 1})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prompt.rank": 2}, None),
        ({"prompt.rank": 8, "prompt.n_ctx": 4}, "rank 8 with n_ctx 4"),
        ({"prompt.init": "a"}, "prompt.init: cannot be a setting"),
        ({"prompt.bits": 9}, "bits: got 9; input should be 1, 2"),
        ({"method": "copo"}, "method: got 'copo'; expected one of ['coop', "),
    ],
)
def test_a_problem_is_a_sentence(
    resolver: Resolver, settings: dict[str, object], problem: str | None
) -> None:
    found = resolver.problem(settings)
    assert found is None if problem is None else found is not None and problem in found


def test_a_method_is_a_point_of_the_family_and_other_settings_win(resolver: Resolver) -> None:
    points = {name: resolver.resolve({"method": name}) for name in resolver.methods}
    assert points["coop"] == (resolver.prompt, resolver.train), "plain params are CoOp's"
    assert points["zero_shot"].prompt.rank == 0
    assert points["rlp"].prompt.rank == 1
    assert points["rlp"].prompt.dropout > 0
    assert points["residual"].prompt.residual.hidden > 0
    assert points["qcoop"].prompt.bits == 1
    assert (points["low_rank_quantized"].prompt.rank, points["qcoop"].prompt.bits) == (1, 1)
    assert points["kgcoop"].train.kg_weight == 8
    assert len({repr(point) for point in points.values()}) == len(points)
    assert resolver.resolve({"method": "qcoop", "prompt.bits": 2}).prompt.bits == 2
    assert resolver.expand({"method": "qcoop", "prompt.bits": 2})["prompt.rank"] == "full"
    assert resolver.expand({"prompt.bits": 2}) == {"prompt.bits": 2}


def test_settings_without_a_method_have_that_of_the_resolver(resolver: Resolver) -> None:
    rlp = replace(resolver, method="rlp")
    assert rlp.resolve({}).prompt.rank == 1
    assert rlp.resolve({"prompt.rank": 2}).prompt.rank == 2
    assert rlp.resolve({"method": "qcoop"}).prompt.bits == 1


def test_coop_is_known_by_what_it_is(resolver: Resolver) -> None:
    assert resolver.is_method({"prompt.rank": "full", "prompt.n_ctx": 4, "train.lr": 0.3}, "coop")
    assert resolver.is_method({"method": "coop", "train.lr": 0.3}, "coop")
    others = [{"prompt.n_ctx": 8}, {"prompt.bits": 8}, {"method": "rlp"}, {"train.kg_weight": 1}]
    assert not any(resolver.is_method(settings, "coop") for settings in others)


@pytest.mark.parametrize(
    ("space", "depth", "n_ctx"),
    [
        ({"train.lr": [0.1]}, 0, 4),
        ({"prompt.n_ctx": [1, 8, 2]}, 0, 8),
        ({"method": ["rlp", "maple"]}, 4, 4),
        ({"method": ["maple"]}, 4, 2),
        ({"method": ["maple"], "prompt.depth": [2, 3], "prompt.n_ctx": [1]}, 3, 1),
    ],
)
def test_the_largest_value_is_that_of_the_space_or_of_its_methods(
    resolver: Resolver, space: dict[str, list[object]], depth: int, n_ctx: int
) -> None:
    found = (resolver.largest("prompt.depth", space), resolver.largest("prompt.n_ctx", space))
    assert found == (depth, n_ctx)


def test_a_resolver_can_be_sent_to_a_worker(resolver: Resolver) -> None:
    assert pickle.loads(pickle.dumps(resolver)) == resolver


def test_names_are_dotted_and_nest_is_the_inverse() -> None:
    nested = {"a": {"b": 1, "c": [2]}, "d": {}}
    flat = {"a.b": 1, "a.c": [2], "d": {}}
    assert flatten(nested) == flat
    assert nest(flat) == nested
