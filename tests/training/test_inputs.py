"""Inputs of a stage belong together, or the stage says what does not and what to run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.clip.backbone import Backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.folder import build_clip, save_clip
from pipeline.core import paths
from pipeline.core.files import write_atomic
from pipeline.core.hashes import file_hash
from pipeline.data.manifest import Manifest, save_manifest
from pipeline.features.extract import encode_task
from pipeline.features.files import load_features, save_features
from pipeline.features.task import TaskFeatures
from pipeline.training.config import InputsConfig
from pipeline.training.inputs import check_study, load_inputs
from tests.helpers.toy import CONTEXT_LENGTH, clip_config, features_config

TASK = "things"


def save(manifest: Manifest) -> None:
    path = paths.manifest_path(TASK)
    write_atomic(path, lambda temporary: save_manifest(temporary, manifest))


@pytest.fixture(scope="module")
def encoded(
    backbone: Backbone, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in which `prepare` and `features` ran."""
    folder = tmp_path_factory.mktemp("encoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save(manifest)
        data_hash = file_hash(paths.manifest_path(TASK))
        features = encode_task(backbone, manifest, data_hash, features_config())
        save_features(paths.features_path(TASK), features)
    return folder


@pytest.fixture
def here(encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, the current one."""
    shutil.copytree(encoded, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def config(clip_folder: Path) -> InputsConfig:
    """What the features were made with."""
    backbone = BackboneConfig(name=str(clip_folder), pretrained=None, device="cpu")
    return InputsConfig(backbone, features_config(), Path(), "a photo of a")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("depth", [0, 1])
def test_inputs_that_belong_together_are_loaded(
    config: InputsConfig, backbone: Backbone, manifest: Manifest, depth: int
) -> None:
    workers = config.features.model_copy(update={"workers": 1})  # changes no feature
    inputs = load_inputs([TASK], config._replace(features=workers), 4, depth)
    features = inputs.tasks[TASK]
    assert (features.pictures is not None, inputs.text.vision is not None) == (depth > 0,) * 2
    assert set(inputs.text.name_tokens) == set(manifest.class_names)
    for template in (None, "here is a {}."):
        captions = [(template or manifest.template).format(name) for name in features.class_names]
        assert torch.equal(inputs.captions_KE(TASK, template), backbone.encode_captions(captions))


def other_backbone(config: InputsConfig) -> InputsConfig:
    """Name a backbone with other weights."""
    torch.manual_seed(9)
    model, _ = build_clip(clip_config(), CONTEXT_LENGTH)
    save_clip(Path("other"), model, clip_config())
    return config._replace(backbone=config.backbone.model_copy(update={"name": "other"}))


def other_manifest(config: InputsConfig) -> InputsConfig:
    """Prepare the task again with other notes."""
    from pipeline.data.manifest import load_manifest

    save(replace(load_manifest(paths.manifest_path(TASK)), notes={"made": "again"}))
    return config


def setting(key: str, value: object) -> Callable[[InputsConfig], InputsConfig]:
    """Change a setting of `features` after the task was encoded."""

    def change(config: InputsConfig) -> InputsConfig:
        return config._replace(features=config.features.model_copy(update={key: value}))

    return change


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_backbone, r"made by a backbone with fingerprint \w{12}; expected \w{12}, that of o"),
        (other_manifest, r"from a manifest with hash \w{12}; expected \w{12}, that of artifacts/"),
        (setting("views", 5), r"made with features\.views 2; expected 5"),
        (setting("crop_scale", (0.6, 1.0)), r"features\.crop_scale \[0\.5, .*expected \[0\.6"),
        (setting("flip", True), r"features\.flip False; expected True"),
        (setting("on_bad_image", "lenient"), r"on_bad_image strict; expected lenient"),
        (setting("seed", 7), r"features\.seed 1; expected 7"),
    ],
)
def test_inputs_that_do_not_belong_together_are_one_error_that_says_what_to_run(
    config: InputsConfig, change: Callable[[InputsConfig], InputsConfig], message: str
) -> None:
    changed = change(config)
    with pytest.raises(ValueError, match=rf"things\.safetensors: .*{message}") as caught:
        load_inputs([TASK], changed, 4, 0)
    assert "run `dvc repro features`" in str(caught.value)


@pytest.mark.usefixtures("here")
def test_names_that_are_too_long_and_towers_that_are_too_shallow_are_refused(
    config: InputsConfig,
) -> None:
    with pytest.raises(ValueError, match="class names too long for n_ctx"):
        load_inputs([TASK], config, CONTEXT_LENGTH - 3, 0)
    with pytest.raises(ValueError, match=r"prompt\.depth: got 9"):
        load_inputs([TASK], config, 4, 9)


def test_results_of_another_study_are_refused() -> None:
    check_study(paths.WINNERS, "sweep-1", "sweep-1", "sweep")
    message = r"sweep/winners\.json: of study sweep-1; expected sweep-2; run `dvc repro sweep`"
    with pytest.raises(ValueError, match=message):
        check_study(paths.WINNERS, "sweep-1", "sweep-2", "sweep")


def test_the_content_hash_is_that_of_everything_a_fit_can_depend_on(
    features: TaskFeatures, tmp_path: Path
) -> None:
    path = tmp_path / "toy.safetensors"
    save_features(path, features)
    assert load_features(path).content_hash == features.content_hash
    assert replace(features, pictures=None).content_hash == features.content_hash
    changed = features.views_NVE.clone()
    changed[0, 0, 0] += 1e-6
    others = [
        replace(features, views_NVE=changed),
        replace(features, label_N=features.label_N.flip(0)),
        replace(features, class_names=features.class_names[::-1]),
        replace(features, settings={"on_bad_image": "lenient"}),
        replace(features, fingerprint="0" * 64),
        replace(features, data_hash="0" * 64),
    ]
    assert len({features.content_hash, *(one.content_hash for one in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "change",
    [{"views": 1}, {"crop_scale": (0.6, 1.0)}, {"flip": True}, {"on_bad_image": "lenient"}],
)
def test_every_setting_of_the_encoding_changes_the_content_hash(
    backbone: Backbone, manifest: Manifest, change: dict[str, object]
) -> None:
    plain, again, other = (
        encode_task(backbone, manifest, "hash", features_config(**changed))
        for changed in ({}, {}, change)
    )
    assert plain.content_hash == again.content_hash != other.content_hash


def test_changed_bytes_of_a_feature_file_are_noticed(
    features: TaskFeatures, tmp_path: Path
) -> None:
    path = tmp_path / "toy.safetensors"
    save_features(path, features)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"toy\.safetensors: .*another hash .*dvc repro features"):
        load_features(path)
