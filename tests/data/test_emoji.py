"""The embedded pictures: the same every time, and no picture twice across splits."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.data.config import EmojiConfig, EmojiTask
from pipeline.data.datasets.emoji import (
    BACKGROUNDS,
    Poses,
    build_manifest,
    find,
    place_drawings,
    random_poses,
    read_drawings,
    read_tasks,
    render_drawing,
)
from pipeline.data.manifest import Manifest, check_manifest


def test_rendering_is_deterministic(
    manifest: Manifest, drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    torch.manual_seed(77)
    tasks = read_tasks(drawings_path, emoji_config)
    again = build_manifest("things", tasks["things"], emoji_config)
    pd.testing.assert_frame_equal(again.rows, manifest.rows)


def test_the_order_of_splits_in_the_config_does_not_matter(
    manifest: Manifest, drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    shuffled = emoji_config.model_copy(update={"poses": {"test": 1, "train": 2, "val": 1}})
    tasks = read_tasks(drawings_path, shuffled)
    again = build_manifest("things", tasks["things"], shuffled).rows
    assert {i["bytes"] for i in again["image"]} == {i["bytes"] for i in manifest.rows["image"]}


def test_held_out_styles_are_only_tested(manifest: Manifest, emoji_config: EmojiConfig) -> None:
    rows = manifest.rows
    assert set(rows.loc[rows["split"] != "test", "domain"]) == set(emoji_config.shot_styles)
    assert set(rows.loc[rows["domain"] == "far", "split"]) == {"test"}
    assert set(rows.loc[rows["split"] == "test", "domain"]) == {"flat", "round", "far"}


def test_every_class_has_every_pose_of_every_style(manifest: Manifest) -> None:
    check_manifest(manifest)
    counts = manifest.rows.groupby(["label", "split", "domain"]).size()
    for (_, split, _), count in counts.items():
        assert count == (2 if split == "train" else 1)
    assert len(counts) == 5 * (2 + 2 + 3)


def test_no_picture_is_in_two_splits(manifest: Manifest) -> None:
    pictures = [image["bytes"] for image in manifest.rows["image"]]
    assert len(set(pictures)) == len(pictures)


def test_another_seed_gives_other_pictures(
    manifest: Manifest, drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    other = emoji_config.model_copy(update={"seed": 4})
    again = build_manifest("things", read_tasks(drawings_path, other)["things"], other)
    same = {i["bytes"] for i in again.rows["image"]} & {i["bytes"] for i in manifest.rows["image"]}
    assert not same


def test_classes_are_the_concepts_that_every_style_draws(
    drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    task = read_tasks(drawings_path, emoji_config)["things"]
    assert sorted(task["codepoint"].unique()) == [f"{c:04X}" for c in range(5)]
    assert (task.groupby("label")["codepoint"].nunique() == 1).all()
    fewer = emoji_config.model_copy(update={"held_out_styles": []})
    assert read_tasks(drawings_path, fewer)["things"]["codepoint"].nunique() == 6


def test_unknown_tasks_and_styles_are_named(drawings_path: Path, emoji_config: EmojiConfig) -> None:
    wrong = emoji_config.model_copy(update={"held_out_styles": ["oil"]})
    with pytest.raises(ValueError, match=r"tasks \['pets'\]: .*\['things'\]") as caught:
        find(drawings_path, wrong, ["pets"])
    assert "prepare.emoji styles ['oil']: got unknown names; expected some of ['far'," in str(
        caught.value
    )
    task = EmojiTask(group="toys", conditions=["melted"], template="a {}.")
    wrong = emoji_config.model_copy(update={"tasks": {"toys": task}})
    with pytest.raises(ValueError, match=r"groups \['toys'\]") as caught:
        find(drawings_path, wrong, ["toys"])
    assert "conditions ['melted']" in str(caught.value)


def test_a_large_group_gives_every_kth_concept(
    drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    fewer = emoji_config.model_copy(update={"max_classes": 3})
    task = read_tasks(drawings_path, fewer)["things"]
    assert sorted(task["codepoint"].unique()) == ["0000", "0002", "0004"]
    assert sorted(task["label"].unique()) == [0, 1, 2]


def test_a_task_shows_its_pictures_under_its_conditions(
    manifest: Manifest, drawings_path: Path, emoji_config: EmojiConfig
) -> None:
    plain = emoji_config.tasks["things"].model_copy(update={"conditions": []})
    config = emoji_config.model_copy(update={"tasks": {"things": plain}})
    drawings = read_tasks(drawings_path, config)["things"]
    rows = build_manifest("things", drawings, config).rows
    shown, without = (
        np.asarray(Image.open(io.BytesIO(one.iloc[0]["image"]["bytes"])))
        for one in (manifest.rows, rows)
    )
    np.testing.assert_allclose(shown.astype(int), 255 - without.astype(int), atol=1)
    assert manifest.template == emoji_config.tasks["things"].template
    assert manifest.notes["conditions"] == ["negative"]


def test_a_file_without_drawings_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "drawings.parquet"
    with pytest.raises(ValueError, match=r"drawings\.parquet: not a readable table"):
        read_drawings(path)
    pd.DataFrame({"style": ["flat"]}).to_parquet(path)
    with pytest.raises(ValueError, match="not a readable table"):
        read_drawings(path)


def test_poses_stay_in_their_bounds() -> None:
    poses = random_poses(500, torch.Generator().manual_seed(0))
    assert len(poses) == 500
    assert poses.scale_P.min() >= 0.75
    assert poses.scale_P.max() <= 1.08
    assert poses.angle_P.abs().max() <= np.deg2rad(12) + 1e-6
    room_P1 = (1.12 - poses.scale_P).clamp(min=0.04)[:, None]
    assert (poses.shift_P2.abs() <= room_P1).all()
    assert 0.4 < (poses.background_P == 0).float().mean() < 0.6
    assert set(poses.background_P.tolist()) == set(range(len(BACKGROUNDS)))


def test_a_plain_pose_is_the_drawing_on_its_background() -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randint(256, (1, 1, 16, 16), generator=generator)
    colour = (torch.rand(1, 3, 16, 16, generator=generator) * alpha).to(torch.uint8)
    premultiplied = torch.cat([colour, alpha.to(torch.uint8)], dim=1)
    pose = Poses(torch.ones(1), torch.zeros(1), torch.zeros(1, 2), torch.tensor([3]))
    background = torch.tensor(list(BACKGROUNDS.values())[3]).view(1, 3, 1, 1)
    expected = colour + background * (1 - alpha / 255)
    torch.testing.assert_close(place_drawings(premultiplied, pose), expected, rtol=0, atol=0.01)


def test_a_shift_moves_right_and_down() -> None:
    dot = torch.zeros(1, 4, 17, 17, dtype=torch.uint8)
    dot[:, :, 8, 8] = 255
    shift = torch.tensor([[4 / 8.5, 2 / 8.5]])
    pose = Poses(torch.ones(1), torch.zeros(1), shift, torch.tensor([1]))
    brightest = place_drawings(dot, pose)[0].sum(dim=0).argmax().item()
    assert divmod(brightest, 17) == (10, 12)


def test_drawings_that_are_not_square_are_padded() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10">'
        '<rect width="20" height="10" fill="red"/></svg>'
    )
    pixels = render_drawing(svg, 32)
    assert pixels.shape == (4, 32, 32)
    assert pixels.dtype == np.uint8
    assert (pixels[3] == 255).mean() == pytest.approx(0.5, abs=0.05)
    assert (pixels[:3] <= pixels[3]).all()
