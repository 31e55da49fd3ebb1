import re
from pathlib import Path

import pytest

from pipeline.params import load_params

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
    assert params.task(["symbols"]) == "symbols"
    for wrong in ([], ["pets"], ["symbols", "objects"]):
        with pytest.raises(ValueError, match=r"expected one task of \['food-drink'"):
            params.task(wrong)


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
        (r"n_trials: \d+", "n_trials: -1", r"sweep\.n_trials: got -1; .*greater than or equal"),
        (r"n_trials: \d+", "n_trails: 24", r"sweep\.n_trails: unknown key"),
        (r"n_trials: \d+", "n_trails: 24", r"sweep\.n_trials: missing"),
        (r"tasks: \[food-drink", "tasks: [objects", r"tasks: got \['objects'\] more than once"),
        (r"tasks: \[food-drink", "tasks: [food/drink", r"tasks\.0: got 'food/drink'"),
        (r"source: emoji", "source: web", r"prepare\.source: got 'web'"),
        (r"train: 0.5", "train: 0.6", r"prepare\.folder\.shares: got 0\.6 \+ 0\.2 \+ 0\.3; .* 1"),
        (r"a photo of a {}", "a photo", r"prepare\.folder\.template: got 'a photo\.'"),
        (r"momentum: [\d.]+", "momentum: fast", r"train\.momentum: got 'fast'"),
        (r"schedule: fast", "schedule: slow", r"train\.schedule: got 'slow'"),
        (r"epochs: auto", "epochs: all", r"train\.coop\.epochs.*: got 'all'"),
        (r"min_steps: \d+", "min_steps: 1", r"train: .*rounds must be at most 1"),
        (r"prompt\.bits: \[.*\]", "prompt.bits: [9]", r"sweep\.space: bits: got 9"),
        (r"prompt\.rank: \[full", "prompt.rnak: [full", r"prompt\.rnak: unknown key"),
        (r"low: [\d.]+, high: [\d.]+", "low: 2, high: 1", r"low must be below high"),
        (r"tasks: \[.*\]\n  shots", "tasks: [fod]\n  shots",
         r"sweep\.tasks: got 'fod'; expected some of \['food-drink'"),
        (r"prompt.rank: full, prompt.bits: 16, prompt.n_ctx: 4",
         "prompt.rank: 2, prompt.bits: 16, prompt.n_ctx: 1",
         r"sweep\.first: rank 2 with n_ctx 1; expected 0 to n_ctx"),
        (r"method: null", "method: copo", r"method: got 'copo'; expected one of \['coop', "),
        (r"prompt.rank: 0}", "prompt.rnak: 0}", r"methods\.zero_shot: prompt\.rnak: unknown key"),
        (r"prompt.rank: 1, prompt.dropout", "prompt.rank: 5, prompt.dropout",
         r"methods\.rlp: rank 5 with n_ctx 4"),
        (r"\nprepare:", "\nprepare: [", r"cannot be read"),
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


def test_methods_are_an_axis_of_the_sweep(tmp_path: Path) -> None:
    path = edited(
        tmp_path, r"prompt\.rank: \[.*\]\n    prompt\.bits: \[.*\]\n", "method: [coop, qcoop]\n"
    )
    text = path.read_text()
    path.write_text(text[: text.index("  first:")] + "  first: []\n" + text[text.index("  cpus") :])
    assert load_params(path).sweep.space["method"].ends == ["coop", "qcoop"]
    path.write_text(path.read_text().replace("method: [coop, qcoop]", "method: [coop, qcop]"))
    with pytest.raises(ValueError, match="method: got 'qcop'; expected one of"):
        load_params(path)
