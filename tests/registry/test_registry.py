"""Every Pareto winner is a version that says what it is; registering again makes nothing new."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.prompts.file import load_prompt, packed_size, unpack_prompt
from pipeline.registry import registry
from pipeline.registry.client import predict
from pipeline.registry.registry import (
    Registered,
    alias_version,
    load_model,
    load_predictor,
    promote,
    register,
)
from pipeline.registry.release import MAX_TAG, prompt_tags
from tests.helpers.registry_world import BENCHMARK, METHODS, NAME, ROLES, STUDY, World, frame


def version_of(world: World, method: str) -> Any:
    return world.tracker.client.get_model_version(NAME, world.registered[method].version)


def n_runs(world: World) -> int:
    return len(world.tracker.client.search_runs([world.tracker.experiment_id]))


def test_every_pareto_winner_is_a_version_and_two_have_aliases(world: World) -> None:
    versions = world.tracker.client.search_model_versions(f"name = '{NAME}'")
    assert {entry.version for entry in versions} == {1, 2, 3}
    assert [version_of(world, method).aliases for method in METHODS] == [
        ["champion"], ["compact"], [],
    ]  # fmt: skip
    assert [p.refused for p in world.promotions] == [None, None]
    model = world.tracker.client.get_registered_model(NAME)
    assert "Pareto" in model.description


@pytest.mark.parametrize("method", METHODS)
def test_tags_say_what_tells_one_version_from_another(world: World, method: str) -> None:
    version, release = version_of(world, method), world.releases[method]
    about = [load_prompt(path)[1] for path in release.prompts.values()]
    tags = version.tags
    settings = about[0]["settings"]["prompt"]
    assert {key: tags[key] for key in ("rank", "bits", "n_ctx")} == {
        key: str(settings[key]) for key in ("rank", "bits", "n_ctx")
    }
    assert {key: tags[key] for key in BENCHMARK} == BENCHMARK
    assert tags["fingerprint"] == world.backbone.fingerprint
    assert (tags["git_commit"], tags["code"]) == ("c" * 40, "d" * 64), "those that made the prompt"
    assert tags["role"] == (method if method in ROLES else "pareto")
    assert (tags["trial"], tags["study"]) == (str(METHODS.index(method)), STUDY)
    assert tags["seeds"] == ("[3, 4]" if method in ROLES else "[3]")
    files = release.prompts.values()
    sizes = [packed_size(path.read_bytes()) for path in files]
    assert tags["size_bytes"] == str(max(size.payload_bytes for size in sizes))
    assert tags["file_bytes"] == str(max(path.stat().st_size for path in files))
    for key in ("base", "new", "harmonic_mean"):
        mean = sum(entry["scores"][key] for entry in about) / len(about)
        assert float(tags[key]) == pytest.approx(mean, abs=1e-6)
    assert all(len(value) <= MAX_TAG for value in tags.values())


def test_the_whole_prompt_stands_in_a_tag(world: World) -> None:
    """Bit by bit the file's; one with too many class names is packed without them."""
    for method in METHODS:
        for task, path in world.releases[method].prompts.items():
            data = base64.b64decode(version_of(world, method).tags[f"prompt.{task}"])
            assert data == path.read_bytes()


def test_a_prompt_that_does_not_fit_a_tag_is_packed_shorter_or_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, path = world.releases["compact"], world.releases["compact"].prompts["fruit"]
    length = len(base64.b64encode(path.read_bytes()))
    monkeypatch.setattr("pipeline.registry.release.MAX_TAG", length - 1)
    short = base64.b64decode(prompt_tags(release)["prompt.fruit"])
    assert len(short) < path.stat().st_size
    prompt, about = unpack_prompt(short, world.backbone.fingerprint)
    assert about == {"method": "compact", "task": "fruit", "seed": 3}
    whole, _ = load_prompt(path)
    for name, tensor in whole.tensors.items():
        assert prompt.tensors[name].payload.equal(tensor.payload)
        assert prompt.tensors[name].codebook.equal(tensor.codebook)
    monkeypatch.setattr("pipeline.registry.release.MAX_TAG", 10)
    assert prompt_tags(release) == {}


def test_a_version_links_to_the_runs_that_made_it(world: World) -> None:
    client, version = world.tracker.client, version_of(world, "champion")
    run = client.get_run(version.run_id)
    names = {key: client.get_run(version.tags[key]).info.run_name for key in (
        "study_run", "trial_run", "evaluate_run")}  # fmt: skip
    assert names == {
        "study_run": STUDY, "trial_run": f"{STUDY}/0", "evaluate_run": f"{STUDY}/base_to_new",
    }  # fmt: skip
    assert run.data.tags["mlflow.parentRunId"] == version.tags["study_run"]
    assert run.info.status == "FINISHED"
    assert version.source.startswith("models:/m-")
    assert "trial_run" not in version_of(world, "compact").tags, "there is no such run"


def test_a_version_holds_prompts_and_code_and_no_pickle(world: World) -> None:
    """The towers travel only where they were asked for."""
    for method, release in world.releases.items():
        uri = f"models:/{NAME}/{world.registered[method].version}"
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        names = [path.name for path in folder.rglob("*")]
        assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth"))]
        assert ("open_clip_model.safetensors" in names) == (method in ROLES)
        code = {path.name for path in (folder / "code" / "pipeline").iterdir() if path.is_dir()}
        assert {"clip", "core", "data", "prompts", "serving"} <= code
        assert not {"training", "sweep", "tracking", "registry", "report"} & code
        for task, path in release.prompts.items():
            assert (
                folder / "artifacts/prompts" / f"{task}.prompt"
            ).read_bytes() == path.read_bytes()
        model = mlflow.models.get_model_info(uri)
        assert model.signature.inputs.input_names() == ["image"]
        assert [param.name for param in model.signature.params] == ["task", "candidates", "classes"]
        assert (folder / "input_example.json").is_file()


def test_registering_again_makes_nothing_new_and_mends_the_alias(world: World) -> None:
    """Neither a version nor a run, and no version is changed."""
    client, done = world.tracker.client, world.registered["champion"]
    before = version_of(world, "champion")
    runs = n_runs(world)
    client.delete_registered_model_alias(NAME, "champion")
    again = register(world.tracker, NAME, world.releases["champion"])
    assert again == replace(done, is_new=False)
    promote(world.tracker, NAME, {role: world.registered[role] for role in ROLES}, "better")
    assert len(client.search_model_versions(f"name = '{NAME}'")) == len(METHODS)
    assert n_runs(world) == runs
    assert dict(version_of(world, "champion")) == dict(before)


def test_a_worse_champion_does_not_take_the_alias_unless_told(world: World) -> None:
    """Nor does its compact; a better one takes both. Old content is its old version again."""
    tracker, old = world.tracker, world.releases["champion"]
    worse = replace(old, score=old.score - 0.1, study="later", trial=7)
    better = replace(old, score=old.score + 0.1, study="latest", trial=8)
    other = replace(better, score=1.0, benchmark=BENCHMARK | {"data_hash": "other"})

    def fight(release: Any, policy: str) -> tuple[Registered, list[str | None]]:
        done = register(tracker, "history", release)
        promotions = promote(tracker, "history", dict.fromkeys(ROLES, done), policy)
        assert len({p.refused for p in promotions}) == 1
        assert {alias_version(tracker, "history", role) for role in ROLES} == {promotions[0].holder}
        return done, [promotions[0].holder, promotions[0].refused]

    assert fight(old, "better")[1] == ["1", None]
    done, told = fight(worse, "better")
    assert (done.version, done.is_new, told[0]) == ("2", True, "1")
    assert "validation score is 60.00, below 70.00" in str(told[1])
    assert fight(better, "never")[1] == ["1", "register.promote is never"]
    assert fight(better, "better")[1] == ["3", None]
    assert fight(better, "never")[1][0] == "3"
    done, told = fight(other, "better")
    assert (done.version, told[0]) == ("4", "3")
    assert "another benchmark" in str(told[1])
    assert fight(worse, "always")[1] == ["2", None]
    done, told = fight(old, "better")
    assert (done.version, done.is_new, told) == ("1", False, ["1", None])


def test_a_version_whose_author_was_stopped_gets_its_card(world: World) -> None:
    client, number = world.tracker.client, world.registered["champion"].version
    card = client.get_model_version(NAME, number).description
    assert card.startswith(f"# {NAME}, version {number}")
    client.update_model_version(NAME, number, description="")
    register(world.tracker, NAME, world.releases["champion"], ["code: Apache-2.0"])
    assert client.get_model_version(NAME, number).description == card


def test_a_prompt_of_another_seed_or_backbone_is_refused(world: World) -> None:
    """The file's own words count, not its name."""
    with pytest.raises(ValueError, match=r"found \('champion', 'fruit', 3\); allowed is .* 4\)"):
        register(world.tracker, NAME, replace(world.releases["champion"], seed=4))
    with pytest.raises(ValueError, match=r"fruit-3\S+: learned for a backbone .* expected odd"):
        register(world.tracker, NAME, replace(world.releases["champion"], fingerprint="odd"))


def test_the_client_predicts_by_alias(world: World, tmp_path: Path) -> None:
    """One line from files to class names; the order of paths is kept beyond one call's worth."""
    paths = [tmp_path / f"{i}.png" for i in range(200)]
    for i, path in enumerate(paths):
        path.write_bytes(world.images["tools"][i % 30])
    answer = predict(f"models:/{NAME}@compact", paths, task="tools")
    expected = world.load("compact").predict(frame(world.images["tools"]), params={"task": "tools"})
    assert answer.index.tolist() == [str(path) for path in paths]
    for i in (0, 29, 130, 199):
        assert answer.iloc[i]["top_classes"] == expected.iloc[i % 30]["top_classes"]


def test_an_alias_that_moved_serves_the_new_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aliases and `latest` are looked up every time, versions are loaded once."""
    client, loads = world.tracker.client, []
    load_pyfunc = mlflow.pyfunc.load_model
    registry.load_version.cache_clear()
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda u: loads.append(u) or load_pyfunc(u))
    client.set_registered_model_alias(NAME, "moving", "1")
    first = load_model(f"models:/{NAME}@moving")
    assert load_model(f"models:/{NAME}@moving") is first
    assert load_model(f"models:/{NAME}/1") is first
    client.set_registered_model_alias(NAME, "moving", "2")
    second = load_model(f"models:/{NAME}@moving")
    client.delete_registered_model_alias(NAME, "moving")
    assert second is not first
    assert load_model(f"models:/{NAME}/latest") is not second
    assert loads == [f"models:/{NAME}/{number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("load", [load_model, load_predictor])
@pytest.mark.parametrize("uri", ["models:/gone@champion", "models:/gone/1", "models:/gone/latest"])
def test_a_model_that_is_not_there_is_named(world: World, load: Any, uri: str) -> None:
    with pytest.raises(ValueError, match=f"{uri}: not to be had at sqlite"):
        load(uri)
    assert world.uri
