"""Named searches replace keys of `sweep`, and every one of them is checked."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.params import Params, load_params, whole_grid
from stages.sweep import identify

SHIPPED = Path(__file__).parents[2] / "params.yaml"
NAMES = load_params(SHIPPED).presets


def edited(tmp_path: Path, preset: str, presets: dict[str, Any] | None = None) -> Path:
    """Return params.yaml with another choice, and presets added."""
    yaml = YAML(typ="safe")
    yaml.sort_base_mapping_type_on_output = False  # the order of axes is that of a grid
    raw = yaml.load(SHIPPED.read_text())
    raw["sweep"]["preset"] = preset
    raw["presets"] |= presets or {}
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        yaml.dump(raw, file)
    return path


def chosen(tmp_path: Path, preset: str) -> Params:
    return load_params(edited(tmp_path, preset))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_replaces_what_it_says_and_nothing_else(tmp_path: Path, name: str) -> None:
    plain, params = load_params(SHIPPED), chosen(tmp_path, name)
    changed = NAMES[name]
    assert params.sweep.preset == name
    for key in type(plain.sweep).model_fields:
        if key not in changed and key != "preset":
            assert getattr(params.sweep, key) == getattr(plain.sweep, key), key
    for key in set(changed) - {"n_trials", "space"}:
        assert getattr(params.sweep, key) == changed[key]
    assert list(params.sweep.space) == list(changed.get("space", plain.sweep.space))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "own"])
def test_a_grid_has_as_many_trials_as_feasible_combinations(tmp_path: Path, name: str) -> None:
    params = chosen(tmp_path, name)
    feasible = [
        settings for settings in params.sweep.grid() if params.resolver.problem(settings) is None
    ]
    assert params.sweep.n_trials == len(feasible) >= 3
    assert len({params.resolver.resolve(settings)[0] for settings in feasible}) > 1


def test_infeasible_combinations_are_not_counted() -> None:
    params = load_params(SHIPPED)
    space = {"prompt.rank": [1, 2, 4], "prompt.n_ctx": [1, 2]}
    raw = {**params.sweep.model_dump(), "sampler": "grid", "n_trials": None, "space": space}
    sweep = type(params.sweep).model_validate(raw)
    assert whole_grid(params.model_copy(update={"sweep": sweep})).n_trials == 3


def test_a_preset_is_what_it_stands_for(tmp_path: Path) -> None:
    named = chosen(tmp_path, "rlp")
    by_hand = load_params(edited(tmp_path, "hand", {"hand": NAMES["rlp"]}))
    plain = load_params(SHIPPED)
    studies = [identify(params, "data", "towers") for params in (named, by_hand, plain)]
    assert studies[0].name == studies[1].name != studies[2].name
    assert [study.tags["preset"] for study in studies] == ["rlp", "hand", "own"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trails": 3}, r"presets\.bad\.n_trails: unknown key"),
        ({"sampler": "grid", "first": []}, r"presets\.bad.*space\.train\.lr: a range needs steps"),
        ({"n_trials": None}, r"presets\.bad.*n_trials: found null"),
        ({"space": {"prompt.rnak": [1]}, "first": []}, r"presets\.bad\.space: prompt\.rnak"),
        ({"space": {"method": ["copo"]}, "first": []}, r"bad\.space: method: got 'copo'"),
        ({"space": {"prompt.rank": [1]}}, r"presets\.bad\.first: .*must be axes"),
        ({"preset": "rlp"}, r"presets\.bad\.preset: not allowed"),
        ({"space": {"train.lr": {"low": 0.001, "high": 0.1, "steps": 30_000}}, "first": [],
          "sampler": "grid"}, r"bad\.space: got 30,000 combinations; expected at most 20,000"),
        ({"space": {"prompt.bits": [1, 2]}, "first": [{"prompt.bits": 4}]},
         r"presets\.bad\.first: prompt\.bits: got 4; expected a value of the axis"),
    ],
)  # fmt: skip
def test_a_mistake_in_any_preset_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_params(edited(tmp_path, "own", {"bad": changes}))


def test_an_unknown_preset_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sweep\.preset: got 'rpl'; expected one of \['coop', "):
        load_params(edited(tmp_path, "rpl"))
