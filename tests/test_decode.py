"""Every kind of picture becomes upright RGB, the same for training and serving, or an error."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from pipeline.decode import LIMITS, Limits, decode_picture, read_picture
from pipeline.served_model import decode_image

H, W = 24, 40
GREY = (200, 120, 10)


def smooth(channels: int = 3, seed: int = 0) -> np.ndarray:
    """A picture without edges, which JPEG keeps within a few levels, `[H, W, channels]`."""
    rng = np.random.default_rng(seed)
    bands = [
        Image.fromarray(rng.integers(0, 256, (3, 4), dtype=np.uint8)).resize((W, H))
        for _ in range(channels)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """The decoded picture; served and trained alike."""
    picture = decode_picture(data)
    assert picture.mode == "RGB"
    found = np.asarray(picture).astype(int)
    assert np.array_equal(found, np.asarray(decode_image(data)))
    return found


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite colours on white, written out."""
    share = alpha[..., None] / 255
    return share * rgb + (1 - share) * 255


def png(bits: int, colour: int, rows: bytes, size: tuple[int, int], *chunks: bytes) -> bytes:
    """A PNG from raw rows, with chunks (name and data) before them."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = b"IHDR" + struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    body = [header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(part) for part in body)


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


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    return png(8, 2, b"\0", (width, height))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that are no readable image"),
        (b"<html>404 Not Found</html>", "26 bytes that are no readable image; allowed are PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable image"),
        (bomb(9_500, 9_500), "90250000 pixels; allowed are 89478485"),
        (bomb(60_000, 60_000), "no readable image .*exceeds limit"),
        (bomb(1, 101), "1 x 101 pixels; .* 100 times the short one"),
        (bomb(9, 9), "damaged or truncated PNG"),
        (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), "32 bits a channel"),
        (bytes(LIMITS.max_bytes + 1), "more than 268435456 bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_has_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_picture(data)


def test_a_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    small = Limits(("PNG", "JPEG"), 10**6, max_pixels=H * W - 1, max_aspect=100)
    for form in small.formats:
        with pytest.raises(ValueError, match="960 pixels; allowed are 959"):
            decode_picture(encoded(Image.new("RGB", (W, H)), form), small)


def test_a_file_that_cannot_be_opened_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_picture(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match="Is a directory"):
        read_picture(tmp_path)

    def refuse(*_: object) -> None:  # for the superuser, every file is readable
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="Permission denied"):
        read_picture(tmp_path / "locked.jpg")


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_picture(path, Limits(("PNG",), 100, 100, 100))
