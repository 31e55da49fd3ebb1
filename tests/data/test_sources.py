"""All sources through the one place that knows them."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.clip.backbone import Backbone
from pipeline.core import paths
from pipeline.data.config import EmojiConfig, PrepareConfig
from pipeline.data.manifest import TEST_ONLY, Manifest, load_manifest, save_manifest
from pipeline.data.sources import build_source, find_sources
from pipeline.features.config import FeaturesConfig
from pipeline.features.extract import encode_task
from pipeline.params import load_params
from tests.helpers.pictures import make_zhou, put

SHIPPED = load_params(Path(__file__).parents[2] / "params.yaml").prepare


@pytest.fixture
def prepare(tmp_path: Path, emoji_config: EmojiConfig) -> PrepareConfig:
    """The shipped settings, with data of every source below one folder."""
    for name in ("dtd", "food101"):
        make_zhou(tmp_path / "coop", name)
    lines = ["image,class_name"]
    for number, name in enumerate(["cat", "dog", "fox"] * 4):
        put(tmp_path / "pictures/pets" / name / f"{number}.png", number)
        put(tmp_path / "tables" / f"{number}.png", number)
        lines.append(f"{number}.png,{name}")
    (tmp_path / "tables/pets.csv").write_text("\n".join(lines))
    roots = {name: str(tmp_path / root) for name, root in
             (("coop", "coop"), ("folder", "pictures"), ("table", "tables"))}  # fmt: skip
    sections: dict[str, Any] = {
        name: getattr(SHIPPED, name).model_copy(update={"root": root})
        for name, root in roots.items()
    }
    return SHIPPED.model_copy(update={**sections, "emoji": emoji_config})


@pytest.mark.parametrize(
    ("source", "tasks"),
    [
        ("emoji", ["things"]),
        ("coop", ["dtd", "food101"]),
        ("folder", ["pets"]),
        ("table", ["pets"]),
    ],
)
def test_every_source_finds_and_builds(
    prepare: PrepareConfig,
    source: str,
    tasks: list[str],
    drawings_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(paths, "DRAWINGS", drawings_path)
    config = prepare.model_copy(update={"source": source})
    found = find_sources(config, tasks)
    assert list(found) == tasks
    assert all(about["source"] == source and len(about["hash"]) == 64 for about in found.values())
    for task in tasks:
        manifest = build_source(config, task)
        save_manifest(tmp_path / "m.parquet", manifest, config.root)
        loaded = load_manifest(tmp_path / "m.parquet", root=config.root)
        assert (loaded.name, loaded.notes["source"]) == (task, source)
        for image in loaded.rows["image"]:
            assert image["bytes"] or Path(image["path"]).is_file()


def test_emoji_are_watched_by_group(
    prepare: PrepareConfig, drawings_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "DRAWINGS", drawings_path)
    with pytest.raises(ValueError, match=r"tasks \['pets'\]: allowed are \['things'\]"):
        find_sources(prepare, ["things", "pets"])


@pytest.mark.parametrize(
    ("source", "task", "link"),
    [
        ("coop", "dtd", "coop/dtd/images/round.jpg"),
        ("folder", "pets", "pictures/pets/cat/round.jpg"),
        ("table", "round", "tables/round/train.csv"),
    ],
)
def test_data_that_cannot_be_read_are_one_sentence(
    prepare: PrepareConfig, source: str, task: str, link: str, tmp_path: Path
) -> None:
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(Path(link).name)
    config = prepare.model_copy(update={"source": source})
    with pytest.raises(ValueError, match=f"{link}.*Too many levels"):
        find_sources(config, [task])


def test_a_test_only_task_is_encoded_and_says_what_it_is(
    prepare: PrepareConfig, tmp_path: Path, backbone: Backbone
) -> None:
    config = prepare.model_copy(update={"source": "coop"})
    whole = build_source(config, "dtd")
    rows = whole.rows[whole.rows["split"] == "test"]
    save_manifest(tmp_path / "m.parquet", Manifest("dtd", "a {}.", rows, TEST_ONLY), config.root)
    plain = FeaturesConfig(
        views=2, crop_scale=(0.7, 1.0), flip=False, batch_size=4, workers=0, seed=1
    )
    manifest = load_manifest(tmp_path / "m.parquet", root=config.root)
    features = encode_task(backbone, manifest, "h", plain)
    assert features.features_NE.shape == (5, 32)
    assert features.views_NVE.shape == (0, 3, 32)
    assert features.shot_domains == []
