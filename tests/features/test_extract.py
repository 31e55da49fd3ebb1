"""Pictures become features: reproducibly, in order, and with all complaints together.

What an interruption keeps is in test_shards.py.
"""

import io
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pipeline.clip.backbone import Backbone
from pipeline.data.manifest import SPLITS, Manifest
from pipeline.data.sampling import Draws
from pipeline.features.extract import encode_task
from pipeline.features.files import load_features, save_features
from pipeline.features.loader import with_pictures
from pipeline.features.task import TaskFeatures
from pipeline.serving.model import decode_image
from pipeline.training.task_run import draw_images
from tests.helpers.toy import EPS, features_config, with_images


def test_rows_stay_in_order(backbone: Backbone, manifest: Manifest) -> None:
    counted: list[int] = []
    found = encode_task(backbone, manifest, "hash", features_config(), counted.append)
    rows = manifest.rows
    assert sum(counted) == manifest.n_encodings(2)
    assert found.class_names == tuple(manifest.class_names)
    assert found.label_N.tolist() == rows["label"].tolist()
    assert [SPLITS[i] for i in found.split_N] == rows["split"].tolist()
    assert [found.domains[i] for i in found.domain_N] == rows["domain"].tolist()
    assert (found.data_hash, found.fingerprint) == ("hash", backbone.fingerprint)
    assert found.row_N.tolist() == list(range(len(rows)))
    train = rows["split"] == "train"
    assert found.training_labels == rows.loc[train, "label"].tolist()
    assert found.train_index_T.tolist() == list(range(train.sum()))
    assert found.skipped == ()
    for row in (0, 7, len(rows) - 1):
        picture = Image.open(io.BytesIO(rows["image"].iloc[row]["bytes"]))
        own = backbone.encode_images(backbone.transform(picture)[None])[0]
        torch.testing.assert_close(found.features_NE[row], own, rtol=0, atol=64 * EPS)


def test_the_first_view_is_the_plain_one_and_the_others_are_not(
    backbone: Backbone, manifest: Manifest
) -> None:
    found = encode_task(backbone, manifest, "hash", features_config())
    is_train = found.split_N == SPLITS.index("train")
    assert found.views_NVE.shape == (int(is_train.sum()), 3, 32)
    assert torch.equal(found.views_NVE[:, 0], found.features_NE[is_train])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        difference = found.views_NVE[:, first] - found.views_NVE[:, second]
        assert (difference.norm(dim=-1) > 100 * EPS).float().mean() > 0.9
    none = encode_task(backbone, manifest, "hash", features_config(views=0))
    assert torch.equal(none.views_NVE[:, 0], found.views_NVE[:, 0])


def test_the_seed_fixes_the_crops_and_batches_do_not_matter(
    backbone: Backbone, manifest: Manifest
) -> None:
    torch.manual_seed(5)
    first = encode_task(backbone, manifest, "hash", features_config())
    torch.manual_seed(6)
    same = encode_task(backbone, manifest, "hash", features_config())
    batched = encode_task(backbone, manifest, "hash", features_config(batch_size=7))
    other = encode_task(backbone, manifest, "hash", features_config(seed=2))
    assert torch.equal(first.views_NVE, same.views_NVE)
    torch.testing.assert_close(first.views_NVE, batched.views_NVE, rtol=0, atol=64 * EPS)
    assert not torch.allclose(first.views_NVE[:, 1:], other.views_NVE[:, 1:])


def broken_chunk(png: bytes) -> bytes:
    """Halve the length of the pixels' chunk: what follows it is no chunk (a SyntaxError)."""
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big") // 2
    return png[: at - 4] + length.to_bytes(4, "big") + png[at:]


def test_all_pictures_that_cannot_be_read_are_named(
    backbone: Backbone, manifest: Manifest, tmp_path: Path
) -> None:
    images = manifest.rows["image"].tolist()
    whole = images[0]["bytes"]
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    broken = {
        1: {"bytes": whole[:-60], "path": "cut.png"},
        4: {"bytes": b"not a picture", "path": "text.png"},
        8: {"bytes": None, "path": str(tmp_path / "gone.png")},
        20: {"bytes": broken_chunk(buffer.getvalue()), "path": "chunk.png"},
    }
    for row, image in broken.items():
        images[row] = image
    bad = with_images(manifest, images)
    with pytest.raises(ValueError, match=r"4 image\(s\) cannot be read") as caught:
        encode_task(backbone, bad, "hash", features_config(batch_size=4))
    for image in broken.values():
        assert image["path"] in str(caught.value)


def test_a_path_serves_as_well_as_bytes(
    backbone: Backbone, manifest: Manifest, tmp_path: Path
) -> None:
    rows = manifest.rows.copy()
    files = []
    for index, image in enumerate(rows["image"]):
        path = tmp_path / f"{index}.png"
        path.write_bytes(image["bytes"])
        files.append({"bytes": None, "path": str(path)})
    on_disk = replace(manifest, rows=rows.assign(image=files))
    found = encode_task(backbone, on_disk, "hash", features_config(views=1))
    assert torch.equal(
        found.views_NVE, encode_task(backbone, manifest, "hash", features_config(views=1)).views_NVE
    )


STRANGE = ("cmyk", "sixteen", "alpha", "turned", "palette", "frames")


def strange_picture(kind: str) -> bytes:
    """Return a picture that is not eight-bit RGB, as a file's bytes."""
    rng = np.random.default_rng(3)
    rgb = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
    buffer = io.BytesIO()
    if kind == "cmyk":
        rgb.convert("CMYK").save(buffer, "JPEG")
    elif kind == "sixteen":
        deep = rng.integers(0, 2**16, (60, 80), dtype=np.uint16)
        Image.fromarray(deep).save(buffer, "PNG")
    elif kind == "alpha":
        rgb.putalpha(rgb.getchannel("R"))
        rgb.save(buffer, "PNG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        rgb.save(buffer, "JPEG", exif=exif)
    elif kind == "palette":
        rgb.quantize(16).save(buffer, "GIF", transparency=3)
    else:
        rgb.save(buffer, "WEBP", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_picture_has_the_features_that_the_served_model_sees(
    backbone: Backbone, manifest: Manifest, kind: str
) -> None:
    images = manifest.rows["image"].tolist()
    images[7] = {"bytes": strange_picture(kind), "path": kind}
    found = encode_task(backbone, with_images(manifest, images), "hash", features_config())
    seen_3HW = backbone.transform(decode_image(images[7]["bytes"]))
    served_E = backbone.encode_images(seen_3HW[None])[0]
    torch.testing.assert_close(found.features_NE[7], served_E, rtol=0, atol=64 * EPS)


def drawn_features(found: TaskFeatures, shots: int, seed: int) -> torch.Tensor:
    """Return the views of the shots of all classes, `[N, V, E]`."""
    classes = range(len(found.class_names))
    row_N, _ = found.training_rows(classes)
    return found.views_NVE[row_N[draw_images(found, classes, shots, seed)]]


@pytest.mark.parametrize("shots", [1, 2])
def test_only_what_is_drawn_is_encoded_and_it_is_the_same(
    backbone: Backbone, manifest: Manifest, shots: int
) -> None:
    counted: list[int] = []
    draws = Draws((1, 4), (shots,))
    whole = encode_task(backbone, manifest, "hash", features_config())
    part = encode_task(backbone, manifest, "hash", features_config(), counted.append, draws)
    assert part.row_N.tolist() == manifest.chosen_rows(draws).tolist()
    assert sum(counted) == manifest.n_encodings(2, draws) < manifest.n_encodings(2)
    assert part.training_labels == whole.training_labels
    assert part.shot_domains == whole.shot_domains
    for name in ("label_N", "split_N", "domain_N"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[part.row_N])
    close = partial(torch.testing.assert_close, rtol=0, atol=64 * EPS)
    close(part.features_NE, whole.features_NE[part.row_N])
    for seed in draws.seeds:
        close(drawn_features(part, shots, seed), drawn_features(whole, shots, seed))
    for split in ("val", "test"):
        every = range(len(whole.class_names)), whole.domains
        close(part.select(split, *every)[0], whole.select(split, *every)[0])
    with pytest.raises(ValueError, match=r"seed 3 .* add 3 to sweep.seeds .*dvc repro features"):
        draw_images(part, range(len(whole.class_names)), shots, 3)


def test_pictures_are_those_of_the_features(backbone: Backbone, manifest: Manifest) -> None:
    """Of exactly the images that are encoded, crops included."""
    found = encode_task(backbone, manifest, "hash", features_config(), draws=Draws((1,), (1,)))
    pictures = with_pictures(found, backbone, manifest, features_config()).pictures
    assert pictures is not None
    for pixels, expected in (
        (pictures.pixel_N3HW, found.features_NE),
        (pictures.view_NV3HW.flatten(0, 1), found.views_NVE.flatten(0, 1)),
    ):
        features = backbone.encode_images(pictures.normalized(pixels, torch.device("cpu")))
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def spoiled(manifest: Manifest, rows: Iterable[int]) -> Manifest:
    """Make some images unreadable."""
    images = manifest.rows["image"].tolist()
    for row in rows:
        images[row] = {"bytes": b"spoiled", "path": f"spoiled-{row}.png"}
    return with_images(manifest, images)


@pytest.mark.parametrize("draws", [None, Draws((1, 4), (1,)), Draws((2,), (3,))])
def test_lenient_is_as_if_bad_images_were_not_there(
    backbone: Backbone, manifest: Manifest, draws: Draws | None
) -> None:
    """Shots, labels and features are those of a manifest without them; it says which."""
    lenient = features_config(views=0, on_bad_image="lenient", batch_size=3)
    splits = manifest.rows["split"]
    drawn = [row for row in manifest.chosen_rows(draws) if splits[row] == "train"]
    bad = [drawn[0], drawn[1], drawn[-1]]
    bad += [splits.index[splits == "val"][0], *splits.index[splits == "test"][-2:]]
    found = encode_task(backbone, spoiled(manifest, bad), "hash", lenient, draws=draws)
    without = replace(manifest, rows=manifest.rows.drop(index=bad).reset_index(drop=True))
    expected = encode_task(backbone, without, "hash", lenient, draws=draws)
    for name in ("label_N", "split_N", "domain_N", "train_label_T", "train_index_T"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    close = partial(torch.testing.assert_close, rtol=0, atol=64 * EPS)
    close(found.features_NE, expected.features_NE)
    close(found.views_NVE, expected.views_NVE)
    assert sorted(found.skipped) == sorted(
        f"spoiled-{row}.png: got 7 bytes, no readable image; expected one of PNG, JPEG, WEBP, "
        "GIF, BMP, TIFF"
        for row in bad
    )


def test_what_was_left_out_is_in_the_file(
    backbone: Backbone, manifest: Manifest, tmp_path: Path
) -> None:
    found = encode_task(
        backbone,
        spoiled(manifest, [44]),
        "hash",
        features_config(on_bad_image="lenient"),
        draws=None,
    )
    save_features(tmp_path / "things.safetensors", found)
    loaded = load_features(tmp_path / "things.safetensors")
    assert loaded.skipped == found.skipped
    assert len(loaded.skipped) == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_a_class_without_images_is_an_error(
    backbone: Backbone, manifest: Manifest, split: str, mode: str
) -> None:
    rows = manifest.rows
    bad = rows.index[(rows["split"] == split) & (rows["label"] == 2)]
    message = {
        "strict": f"{len(bad)} image.s. cannot be read",
        "lenient": f"class 'blue thing' has no {split} image left",
    }
    for draws in (None, Draws((1,), (1,))):
        if mode == "strict" and draws and split == "train":
            continue  # one of them is tried
        with pytest.raises(ValueError, match=message[mode]):
            encode_task(
                backbone,
                spoiled(manifest, bad),
                "hash",
                features_config(on_bad_image=mode),
                draws=draws,
            )


def test_no_readable_image_at_all(backbone: Backbone, manifest: Manifest) -> None:
    bad = spoiled(manifest, range(len(manifest.rows)))
    with pytest.raises(ValueError, match="too many images cannot be read"):
        encode_task(backbone, bad, "hash", features_config(on_bad_image="lenient"))
