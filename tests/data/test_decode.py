"""Every kind of picture becomes upright RGB, the same for training and serving, or an error."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline.data.decode import decode_picture, read_picture
from tests.helpers.picture_files import GREY, H, W, encoded, on_white, pixels, png, smooth


def test_plain_rgb_stays_bit_by_bit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    for form, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        assert np.array_equal(pixels(encoded(Image.fromarray(noise), form, **options)), noise)
    jpeg = encoded(Image.fromarray(noise), "JPEG")
    assert np.array_equal(pixels(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_a_cut_file_never_gives_other_pixels(form: str, options: dict[str, Any]) -> None:
    """An error, or the whole picture where only what follows the pixels is missing."""
    noise = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form, **options)
    whole, refused = pixels(data), 0
    for length in range(0, len(data), 1 if form == "JPEG" else 7):
        try:
            assert np.array_equal(pixels(data[:length]), whole), length
        except ValueError:
            refused += 1
    assert refused * 7 > 0.9 * len(data)


def cmyk_jpeg(ink: np.ndarray, transform: int | None) -> bytes:
    """A CMYK JPEG of inks, 255 is full.

    Args:
        ink: `[H, W, 4]`.
        transform: 0: inverted with Adobe's marker; 2: the same as YCCK; None: neither.
    """
    stored = Image.fromarray(ink, "CMYK")
    if transform == 2:  # YCCK: Y, Cb and Cr of 255 - C, 255 - M, 255 - Y, here of inverted ones
        turned = Image.fromarray(ink[..., :3]).convert("YCbCr")
        bands = [*turned.split(), Image.fromarray(255 - ink[..., 3])]
        stored = Image.merge("CMYK", [band.point(lambda v: 255 - v) for band in bands])
    elif transform is None:
        stored = Image.fromarray(255 - ink, "CMYK")
    data = encoded(stored, "JPEG", quality=100, subsampling=0)
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return data[:at] + data[at + 16 :]
    return data[: at + 15] + bytes([transform]) + data[at + 16 :]


@pytest.mark.parametrize("transform", [0, 2, None])
def test_ink_becomes_light(transform: int | None) -> None:
    ink = smooth(4)
    part = 255.0 - ink.astype(int)
    expected = part[..., :3] * part[..., 3:] / 255
    assert np.abs(pixels(cmyk_jpeg(ink, transform)) - expected).max() <= 6
    assert expected.std() > 20


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.arange(0, 2**16, 41, dtype=np.uint16)[: H * W].reshape(H, W)
    for form in ("PNG", "TIFF"):
        found = np.asarray(decode_picture(encoded(Image.fromarray(deep), form)))
        assert np.array_equal(found, np.repeat(deep[..., None] // 256, 3, axis=-1))
    plain = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(pixels(encoded(Image.fromarray(plain * 257), "PNG"))[..., 0], plain)


def test_sixteen_bits_of_grey_and_of_colour_agree() -> None:
    values = np.random.default_rng(2).integers(0, 2**16, 12).astype(">u2")
    grey = png(16, 0, b"\0" + values.tobytes(), (12, 1))
    colour = png(16, 2, b"\0" + values.repeat(3).tobytes(), (12, 1))
    assert np.array_equal(pixels(grey), pixels(colour))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(form: str) -> None:
    rgba = smooth(4)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = encoded(Image.fromarray(rgba), form, **options)
    found = np.asarray(decode_picture(data))
    assert np.abs(found - on_white(rgba[..., :3], rgba[..., 3])).max() <= 1
    opaque = rgba.copy()
    opaque[..., 3] = 255
    data = encoded(Image.fromarray(opaque), form, **options)
    assert np.array_equal(np.asarray(decode_picture(data)), rgba[..., :3])


def test_grey_with_and_without_alpha() -> None:
    grey, alpha = smooth(2)[..., 0], smooth(2)[..., 1]
    threefold = np.repeat(grey[..., None], 3, axis=-1)
    assert np.array_equal(pixels(encoded(Image.fromarray(grey), "PNG")), threefold)
    with_alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    found = pixels(encoded(with_alpha, "PNG"))
    assert np.abs(found - on_white(threefold, alpha)).max() <= 1
    bilevel = Image.fromarray(grey).point(lambda v: 255 * (v > 127), "1")
    assert set(pixels(encoded(bilevel, "PNG")).flatten()) == {0, 255}


def palette_picture() -> Image.Image:
    """Four stripes in the colours of a palette."""
    stripes = np.arange(W, dtype=np.uint8)[None].repeat(H, 0) // (W // 4)
    picture = Image.fromarray(stripes, "P")
    picture.putpalette([255, 0, 0, *GREY, 0, 0, 255, 0, 90, 0])
    return picture


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_keeps_its_colours_and_what_is_transparent_is_white(form: str) -> None:
    stripe = slice(W // 4, W // 2)
    plain = pixels(encoded(palette_picture(), form))
    assert (plain[:, stripe] == GREY).all()
    clear = pixels(encoded(palette_picture(), form, transparency=1))
    assert (clear[:, stripe] == 255).all()
    kept = np.ones(W, dtype=bool)
    kept[stripe] = False
    assert np.array_equal(clear[:, kept], plain[:, kept])


def test_transparent_shares_and_transparent_greys() -> None:
    half = pixels(encoded(palette_picture(), "PNG", transparency=bytes([255, 128, 255, 255])))
    expected = on_white(np.array(GREY)[None, None], np.array([[128]]))
    assert np.abs(half[:, W // 4 : W // 2] - expected).max() <= 1
    for bits, row in ((8, b"\x0a\x80"), (16, b"\x0a\x01\x80\x01")):
        transparent = b"tRNS" + row[: bits // 8].rjust(2, b"\0")
        found = pixels(png(bits, 0, b"\0" + row, (2, 1), transparent))
        assert found[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_is_the_picture(form: str) -> None:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (pixels(data) == (255, 0, 0)).all()


BACK: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
"""EXIF 2.32, table 6: where row 0 and column 0 of the stored picture belong."""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [*BACK, 0, 9])
def test_pictures_are_upright(form: str, orientation: int) -> None:
    stored = smooth()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    plain = np.asarray(decode_picture(encoded(Image.fromarray(stored), form)))
    found = decode_picture(encoded(Image.fromarray(stored), form, exif=exif))
    expected = BACK.get(orientation, BACK[1])(plain)
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_spoils_no_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = exif.tobytes()
    stored = Image.fromarray(smooth())
    plain = pixels(encoded(stored, "JPEG"))
    for damaged in (b"Exif\0\0", whole[:9], whole[:10] + b"\xff" * 20, b"Exif\0\0II*\0\xff\xff"):
        assert np.array_equal(pixels(encoded(stored, "JPEG", exif=damaged)), plain)


def test_bytes_and_paths_are_the_same_whatever_the_name(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(smooth()), "PNG")
    for name in ("plain.png", "Tür über 猫 🐈.jpg", "no suffix"):
        path = tmp_path / name
        path.write_bytes(data)
        for source in (path, str(path)):
            assert np.array_equal(np.asarray(read_picture(source)), pixels(data))
