"""A study is named by everything that its trials depend on, and by nothing else."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core import code, paths
from pipeline.core.code import import_closure, module_file
from pipeline.params import load_params
from pipeline.sweep.identity import EXEMPT, MAKERS, Identity, identify, study_tags, trial_code

SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path / "state")  # the checkout's id is in it


def edited(folder: Path, **changes: Any) -> Identity:
    """Return the identity of params.yaml with some settings changed."""
    yaml = YAML(typ="safe")
    yaml.sort_base_mapping_type_on_output = False  # the order of axes counts
    raw = yaml.load(SHIPPED.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = raw
        for part in sections:
            section = section[part]
        section[key] = value
    path = folder / "params.yaml"
    with path.open("w") as file:
        yaml.dump(raw, file)
    params = load_params(path)
    return identify(params.sweep, params.resolver, "features", "towers")


@pytest.mark.parametrize(
    "changes",
    [
        {"train__momentum": 0.8},
        {"prompt__quantizer__interval": 11},
        {"prompt__dropout": 0.1},
        {"train__fast__boost__full": 2.5},
        {"sweep__seeds": [1, 3]},
        {"sweep__shots": 8},
        {"sweep__lag": 7},
        {"sweep__sampler_seed": 2},
        {"sweep__cpus_per_trial": 2},
        {"sweep__space__prompt.bits": [1, 2, 4, 8, 16]},
        {"methods__kgcoop__train.kg_weight": 4},
    ],
    ids=str,
)
def test_settings_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain, changed = edited(tmp_path), edited(tmp_path, **changes)
    assert changed.name != plain.name
    [problem] = plain.differences(changed)
    [name] = changes
    assert problem.startswith(f"{name.replace('__', '.')}: got ")


@pytest.mark.parametrize(
    "changes",
    [
        {"sweep__n_trials": 100},
        {"prompt__rank": 1},
        {"train__lr": 0.1},
        {"evaluate__seeds": [1]},
        {"tracking__experiment": "other"},
    ],
    ids=str,
)
def test_what_changes_no_trial_does_not_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert edited(tmp_path, **changes) == edited(tmp_path)


@pytest.mark.parametrize("part", ["features", "towers", "code"])
def test_features_towers_and_code_count(tmp_path: Path, part: str) -> None:
    plain = edited(tmp_path)
    changed = replace(plain, **{part: "f" * 64})
    assert changed.name != plain.name
    assert [line.split(":")[0] for line in plain.differences(changed)] == (
        [] if part == "code" else [part]
    )


def test_a_checkout_has_its_own_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = edited(tmp_path)
    here = identity.name
    monkeypatch.setattr(paths, "STATE", tmp_path / "elsewhere")
    assert identity.name != here


def test_tags_name_what_made_the_study(tmp_path: Path) -> None:
    params = load_params(SHIPPED)
    tags = study_tags(edited(tmp_path), params.sweep, "data")
    assert tags["code"] == trial_code()
    assert tags["features"] == "features"
    assert {"git_commit", "data_hash", "backbone", "version.torch"} <= set(tags)


def test_every_exempt_module_is_imported_and_has_a_reason() -> None:
    assert set(EXEMPT) <= set(import_closure(MAKERS))
    assert all(EXEMPT.values())
    assert not [name for name in EXEMPT if name.split(".")[1] in ("clip", "prompts", "features")]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code whose identity is taken."""
    shutil.copytree(code.ROOT / "pipeline", tmp_path / "pipeline")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.imported.cache_clear()
    yield tmp_path
    code.imported.cache_clear()


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("pipeline.training.fit", True),
        ("pipeline.training.schedule", True),
        ("pipeline.training.validation", True),
        ("pipeline.training.metrics", True),
        ("pipeline.prompts.quantizer", True),
        ("pipeline.prompts.residual", True),
        ("pipeline.clip.text.tower", True),
        ("pipeline.clip.text.shared_prefix", True),
        ("pipeline.clip.backbone", True),
        ("pipeline.features.loader", True),
        ("pipeline.data.sampling", True),
        ("pipeline.sweep.job", True),
        ("pipeline.sweep.trainable", False),
        ("pipeline.sweep.sampler", False),
        ("pipeline.core.errors", False),
        ("pipeline.training.refit", False),
        ("pipeline.report.report", False),
    ],
)
def test_code_counts_where_it_can_change_a_number(copied: Path, module: str, counts: bool) -> None:
    before, file = trial_code(), module_file(module)
    assert file is not None
    assert file.is_relative_to(copied)
    source = file.read_text()
    file.write_text(f"# an unused comment\n{source}")
    assert trial_code() == before
    file.write_text(f"{source}\nCONSTANT = 1\n")
    assert (trial_code() != before) == counts
