import re
from pathlib import Path

import pytest

from pipeline.params import (
    apply_settings,
    chosen_task,
    expand,
    flatten,
    is_method,
    load_params,
)

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert re.search(old, text), f"{old} is not in params.yaml"
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(old, new, text, count=1))
    return path


def test_shipped_params_are_valid() -> None:
    params = load_params(SHIPPED)
    assert params.sweep.n_trials >= 24
    assert set(params.sweep.tasks) <= set(params.tasks)


def test_a_stage_is_called_for_one_task() -> None:
    params = load_params(SHIPPED)
    assert chosen_task(params, ["symbols"]) == "symbols"
    for wrong in ([], ["pets"], ["symbols", "objects"]):
        with pytest.raises(ValueError, match=r"allowed is one task of \['food-drink'"):
            chosen_task(params, wrong)


def test_every_source_is_checked_and_the_chosen_one_says_where_paths_start() -> None:
    prepare = load_params(SHIPPED).prepare
    roots = {
        source: prepare.model_copy(update={"source": source}).root
        for source in ("emoji", "coop", "folder", "table")
    }
    assert roots == {
        "emoji": Path(),
        "coop": Path(prepare.coop.root),
        "folder": Path(prepare.folder.root),
        "table": Path(prepare.table.root),
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"n_trials: \d+", "n_trials: -1", r"sweep\.n_trials: found -1; .*greater than or equal"),
        (r"n_trials: \d+", "n_trails: 24", r"sweep\.n_trails: unknown key"),
        (r"n_trials: \d+", "n_trails: 24", r"sweep\.n_trials: missing"),
        (r"tasks: \[food-drink", "tasks: [objects", r"tasks: found \['objects'\] more than once"),
        (r"tasks: \[food-drink", "tasks: [food/drink", r"tasks\.0: found 'food/drink'"),
        (r"source: emoji", "source: web", r"prepare\.source: found 'web'"),
        (r"train: 0.5", "train: 0.6", r"prepare\.folder\.shares: found 0\.6 \+ 0\.2 \+ 0\.3; .* 1"),
        (r"a photo of a {}", "a photo", r"prepare\.folder\.template: found 'a photo\.'"),
        (r"momentum: [\d.]+", "momentum: fast", r"train\.momentum: found 'fast'"),
        (r"schedule: fast", "schedule: slow", r"train\.schedule: found 'slow'"),
        (r"epochs: auto", "epochs: all", r"train\.coop\.epochs.*: found 'all'"),
        (r"min_steps: \d+", "min_steps: 1", r"train: .*rounds must be at most 1"),
        (r"prompt\.bits: \[.*\]", "prompt.bits: [9]", r"sweep\.space: bits: found 9"),
        (r"prompt\.rank: \[full", "prompt.rnak: [full", r"prompt\.rnak: unknown key"),
        (r"low: [\d.]+, high: [\d.]+", "low: 2, high: 1", r"low must be below high"),
        (r"tasks: \[.*\]\n  shots", "tasks: [fod]\n  shots",
         r"sweep\.tasks: 'fod' is not prepared; allowed are \['food-drink'"),
        (r"prompt.rank: full, prompt.bits: 16, prompt.n_ctx: 4",
         "prompt.rank: 2, prompt.bits: 16, prompt.n_ctx: 1",
         r"sweep\.first: rank 2 with n_ctx 1: allowed are 0 to n_ctx"),
        (r"method: null", "method: copo", r"method: found 'copo'; allowed are \['coop', "),
        (r"prompt.rank: 0}", "prompt.rnak: 0}", r"methods\.zero_shot: prompt\.rnak: unknown key"),
        (r"prompt.rank: 1, prompt.dropout", "prompt.rank: 5, prompt.dropout",
         r"methods\.rlp: rank 5 with n_ctx 4"),
        (r"\nprepare:", "\nprepare: [", r"not readable"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(ValueError, match=message) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    path = edited(tmp_path, r"n_trials: \d+", "n_trials: none")
    path.write_text(path.read_text().replace("momentum: 0.9", "momentum: 2"))
    with pytest.raises(ValueError, match="2 problem") as caught:
        load_params(path)
    assert "sweep.n_trials" in str(caught.value)
    assert "train.momentum" in str(caught.value)


def test_a_repeated_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text() + "\ntrain:\n  lr: 1\n")
    with pytest.raises(ValueError, match="train"):
        load_params(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml"):
        load_params(tmp_path / "nowhere.yaml")


def test_settings_reach_the_configs() -> None:
    params = load_params(SHIPPED)
    prompt, train = apply_settings(params, {"prompt.rank": 2, "prompt.bits": 1, "train.lr": 0.5})
    assert (prompt.rank, prompt.bits, train.lr) == (2, 1, 0.5)
    assert prompt.n_ctx == params.prompt.n_ctx


def test_settings_reach_nested_sections_and_leave_the_rest() -> None:
    params = load_params(SHIPPED)
    settings = {"train.schedule": "coop", "train.coop.epochs": 7, "prompt.quantizer.interval": 3}
    prompt, train = apply_settings(params, settings)
    assert (train.schedule, train.coop.epochs, prompt.quantizer.interval) == ("coop", 7, 3)
    assert train.coop.batch_size == params.train.coop.batch_size
    assert train.fast == params.train.fast
    assert apply_settings(params, {}) == (params.prompt, params.train)


@pytest.mark.parametrize(
    "name", ["train.steps", "train.fast", "train.fast.step", "lr", "sweep.shots"]
)
def test_settings_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name}: unknown key; allowed are method and .*train.fast.stride"
    ):
        apply_settings(load_params(SHIPPED), {name: 1})


def test_a_method_is_a_point_of_the_family_and_what_is_set_beside_it_wins() -> None:
    params = load_params(SHIPPED)
    points = {name: apply_settings(params, {"method": name}) for name in params.methods}
    assert points["coop"] == (params.prompt, params.train), "plain params are CoOp's"
    assert points["zero_shot"][0].rank == 0
    assert points["rlp"][0].rank == 1
    assert points["rlp"][0].dropout > 0
    assert points["residual"][0].residual.hidden > 0
    assert points["qcoop"][0].bits == 1
    assert (points["low_rank_quantized"][0].rank, points["low_rank_quantized"][0].bits) == (1, 1)
    assert points["kgcoop"][1].kg_weight == 8
    assert len({(prompt.model_dump_json(), train) for prompt, train in points.values()}) == len(
        points
    )
    prompt, _ = apply_settings(params, {"method": "qcoop", "prompt.bits": 2})
    assert prompt.bits == 2
    assert expand(params, {"method": "qcoop", "prompt.bits": 2})["prompt.rank"] == "full"
    assert expand(params, {"prompt.bits": 2}) == {"prompt.bits": 2}


def test_methods_are_an_axis_of_the_sweep(tmp_path: Path) -> None:
    path = edited(
        tmp_path, r"prompt\.rank: \[.*\]\n    prompt\.bits: \[.*\]\n", "method: [coop, qcoop]\n"
    )
    text = path.read_text()
    path.write_text(text[: text.index("  first:")] + "  first: []\n" + text[text.index("  cpus") :])
    params = load_params(path)
    assert params.sweep.space["method"].ends == ["coop", "qcoop"]
    prompt, _ = apply_settings(params, {"method": "qcoop", "prompt.n_ctx": 2, "train.lr": 0.1})
    assert (prompt.bits, prompt.n_ctx) == (1, 2)
    path.write_text(path.read_text().replace("method: [coop, qcoop]", "method: [coop, qcop]"))
    with pytest.raises(ValueError, match="method: found 'qcop'; allowed are"):
        load_params(path)


def test_the_method_of_params_lies_beneath_all_settings() -> None:
    params = load_params(SHIPPED).model_copy(update={"method": "rlp"})
    assert apply_settings(params, {})[0].rank == 1
    assert apply_settings(params, {"prompt.rank": 2})[0].rank == 2
    assert apply_settings(params, {"method": "qcoop"})[0].bits == 1


def test_coop_is_known_by_what_it_is() -> None:
    params = load_params(SHIPPED)
    assert is_method(params, {"prompt.rank": "full", "prompt.n_ctx": 4, "train.lr": 0.3}, "coop")
    assert is_method(params, {"method": "coop", "train.lr": 0.3}, "coop")
    others = [{"prompt.n_ctx": 8}, {"prompt.bits": 8}, {"method": "rlp"}, {"train.kg_weight": 1}]
    assert not any(is_method(params, settings, "coop") for settings in others)


def test_flatten_uses_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": [2]}, "d": {}}) == {"a.b": 1, "a.c": [2], "d": {}}
