"""Loading, freezing and telling backbones apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from pipeline.clip.backbone import Backbone, load_backbone, tokenize, wrap_model
from pipeline.clip.config import BackboneConfig
from pipeline.clip.fingerprint import fingerprint
from pipeline.clip.folder import build_clip, copy_towers, save_clip
from pipeline.clip.images import CONFIG, WEIGHTS
from pipeline.features.config import FeaturesConfig
from pipeline.features.loader import crop_transform
from tests.helpers.toy import clip_config


def load(name: Any, pretrained: str | None = None) -> Backbone:
    """Load on the CPU."""
    return load_backbone(BackboneConfig(name=str(name), pretrained=pretrained, device="cpu"))


def test_the_fingerprint_changes_with_one_weight() -> None:
    torch.manual_seed(1)
    model, _ = build_clip(clip_config(), 24)
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        weight = model.visual.proj[0, 0].item()
        model.visual.proj[0, 0] = torch.nextafter(torch.tensor(weight), torch.tensor(9.0))
    assert fingerprint(model) != before
    with torch.no_grad():
        model.visual.proj[0, 0] = weight
    assert fingerprint(model) == before


def changed_clip(place: str, **changes: Any) -> str:
    """The fingerprint of a CLIP with the same weights and another way to use them."""
    config = clip_config()
    config[place] |= changes
    torch.manual_seed(1)
    return fingerprint(build_clip(config, 24)[0])


@pytest.mark.parametrize("place", ["text_cfg", "vision_cfg"])
def test_the_fingerprint_tells_activations_and_heads_of_equal_weights_apart(place: str) -> None:
    heads = {"heads": 4} if place == "text_cfg" else {"head_width": 16}
    found = {
        changed_clip(place),
        changed_clip(place, act_kwargs={"approximate": "tanh"}),
        changed_clip(place, norm_kwargs={"eps": 1e-6}),
        changed_clip(place, **heads),
    }
    assert len(found) == 4
    torch.manual_seed(1)
    quick = open_clip.CLIP(**clip_config(), quick_gelu=True)
    assert fingerprint(quick) not in found
    torch.manual_seed(1)
    plain = open_clip.CLIP(**clip_config())
    pairs = zip(quick.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert fingerprint(plain) in found


def test_a_named_model_is_copied_whole(tmp_path: Path) -> None:
    """With its activation, in full precision: what loads is the same model."""
    torch.manual_seed(3)
    (tmp_path / "tiny-x.json").write_text(json.dumps(clip_config()))
    open_clip.add_model_config(tmp_path / "tiny-x.json")
    model = open_clip.create_model("tiny-x", force_quick_gelu=True).eval()
    model.requires_grad_(False)
    backbone = wrap_model(model, open_clip.get_tokenizer("tiny-x"), torch.device("cpu"))
    config = BackboneConfig(name="tiny-x", pretrained="somewhere", device="cpu")
    copied = copy_towers(config, backbone, tmp_path / "copy")
    assert load(copied).fingerprint == backbone.fingerprint
    assert (
        copy_towers(BackboneConfig(name=str(copied), pretrained=None), backbone, tmp_path) == copied
    )
    unknown = BackboneConfig(name="never-heard-of", pretrained=None)
    with pytest.raises(ValueError, match="towers of never-heard-of cannot be copied"):
        copy_towers(unknown, backbone, tmp_path / "other")


def test_saving_keeps_the_weights_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, tokenizer = build_clip(clip_config(), 24)
    save_clip(tmp_path / "folder", model, clip_config())
    loaded = load(tmp_path / "folder")
    own = model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, own[name].half().float()), name
    assert loaded.logit_scale == pytest.approx(model.logit_scale.half().float().exp().item())
    assert tokenize(loaded.tokenizer, "a red apple.") == tokenizer.encode("a red apple.")
    assert load(tmp_path / "folder").fingerprint == loaded.fingerprint


def test_a_loaded_backbone_is_frozen_and_full_precision(backbone: Backbone) -> None:
    assert not backbone.model.training
    for parameter in backbone.model.parameters():
        assert not parameter.requires_grad
        assert parameter.dtype == torch.float32
    assert backbone.text.context_length == 24


def test_features_are_unit_vectors(backbone: Backbone) -> None:
    image_NE = backbone.encode_images(torch.randn(3, 3, 32, 32))
    text_KE = backbone.encode_captions(["a cat.", "a dog."])
    assert image_NE.shape == (3, 32)
    for features in (image_NE, text_KE):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))


def test_names_are_tokenized_as_they_are_read(backbone: Backbone) -> None:
    side = backbone.text_side("a photo of a", ["hot_air_balloon", "Cat"])
    assert side.name_tokens["hot_air_balloon"] == tokenize(backbone.tokenizer, "hot air balloon.")
    assert side.name_tokens["Cat"] == tokenize(backbone.tokenizer, "cat.")
    whole = tokenize(backbone.tokenizer, "a photo of a hot air balloon.")
    assert side.init_words + side.name_tokens["hot_air_balloon"] == whole


@pytest.mark.parametrize("name", ["no/such/folder", "NoSuchModel", "ViT-S-32-alt"])
def test_a_backbone_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"backbone.name: {name}"):
        load(name)


def test_a_damaged_folder_is_an_error(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(clip_folder, folder)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(ValueError, match="no folder with"):
        load(folder)


def test_a_setting_that_would_be_ignored_is_an_error(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match="pretrained: 'openai' does not apply"):
        load(clip_folder, "openai")


@pytest.mark.parametrize("flip", [False, True])
def test_crops_have_the_models_size_and_follow_the_seed(backbone: Backbone, flip: bool) -> None:
    config = FeaturesConfig(
        views=1, crop_scale=(0.3, 0.6), flip=flip, batch_size=2, workers=0, seed=1
    )
    crop = crop_transform(backbone, config.crop_scale, config.flip)
    pixels = torch.randint(256, (50, 40, 3), dtype=torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    crops = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        crops.append(crop(picture))
    assert crops[0].shape == (3, 32, 32)
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


def test_drivers_load_on_the_cpu_whatever_the_workers_use(clip_folder: Path) -> None:
    config = BackboneConfig(name=str(clip_folder), pretrained=None, device="cuda")
    assert config.on_cpu().torch_device() == torch.device("cpu")
    assert load_backbone(config.on_cpu()).device == torch.device("cpu")


def test_an_image_tower_that_takes_no_prompts_stands_in_the_way_of_vision_prompts_alone() -> None:
    config = clip_config()
    config["vision_cfg"]["layers"] = [1, 1, 1, 1]
    model, tokenizer = build_clip(config, 24)
    backbone = wrap_model(model.eval().requires_grad_(False), tokenizer, torch.device("cpu"))
    side = backbone.text_side("a photo of a", ["cat"])
    assert side.tower(side.init_MD(4)[None], side.pack(["cat"], 4)).isfinite().all()
    with pytest.raises(ValueError, match="image tower ModifiedResNet: cannot read prompts"):
        backbone.vision_side()
