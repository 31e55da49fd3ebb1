"""Decode pictures into upright RGB, or say why that is impossible.

Training and the registered model share this code, so that a picture has the same features in both.

| in the file | becomes |
|---|---|
| EXIF orientation | applied |
| transparency: alpha, or a transparent colour | composited on white, as a page shows it |
| 16-bit grey | its high byte, which is what Pillow keeps of 16-bit colour |
| CMYK and YCCK | RGB by ink, without a colour profile; inverted if Adobe wrote the JPEG |
| several frames | the first |
| colour profiles | not applied |

Eight-bit RGB without orientation stays as it is, bit by bit.

Shapes: H x W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes a picture upright, by its EXIF orientation."""


@dataclass(frozen=True)
class Limits:
    """The pictures that are accepted.

    Attributes:
        formats: Pillow's names; others are not even tried (some run other programs).
        max_bytes: of the encoded picture.
        max_pixels: checked before decoding: a small file can expand to gigabytes.
        max_aspect: long side over short side: the short one is scaled to the model's size, the
            long one with it.
    """

    formats: tuple[str, ...]
    max_bytes: int
    max_pixels: int
    max_aspect: int


LIMITS = Limits(
    formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
    max_bytes=2**28,
    max_pixels=2**30 // 12,
    max_aspect=100,
)
"""Of training: 256 MB, and the 89 million pixels above which Pillow suspects a bomb."""


def read_picture(source: bytes | str | Path, limits: Limits = LIMITS) -> Image.Image:
    """Decode a picture, given as bytes or as the path of a file; see `decode_picture`.

    Raises:
        ValueError: the reason, without the path.
    """
    if isinstance(source, bytes):
        return decode_picture(source, limits)
    try:
        with Path(source).open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    return decode_picture(data, limits)


def decode_picture(data: bytes, limits: Limits = LIMITS) -> Image.Image:
    """Decode a picture into upright RGB; see this module's table.

    Raises:
        ValueError: if it is of no accepted format, damaged, truncated or too large.
    """
    if len(data) > limits.max_bytes:
        raise ValueError(f"more than {limits.max_bytes} bytes")
    try:
        picture = Image.open(io.BytesIO(data), formats=limits.formats)
    except Exception as error:  # Pillow raises many kinds on damaged files
        detail = f" ({error})" if isinstance(error, Image.DecompressionBombError) else ""
        raise ValueError(
            f"got {len(data)} bytes, no readable image{detail}; expected one of "
            f"{', '.join(limits.formats)}"
        ) from None
    check_size(picture, limits)
    try:
        picture.load()
    except Exception as error:  # as above
        raise ValueError(f"a damaged or truncated {picture.format} image: {error}") from None
    return upright_rgb(picture)


def check_size(picture: Image.Image, limits: Limits) -> None:
    """Refuse a picture that is too large, by its header.

    Raises:
        ValueError: with its size.
    """
    short, long = sorted(picture.size)
    if short * long > limits.max_pixels:
        raise ValueError(f"got {short * long} pixels; expected at most {limits.max_pixels}")
    if long > limits.max_aspect * short:
        raise ValueError(
            f"got {picture.width} x {picture.height} pixels; expected a long side of at most "
            f"{limits.max_aspect} times the short one"
        )


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a decoded picture as upright RGB; itself if it is that already.

    Raises:
        ValueError: if its numbers have no known meaning as colours.
    """
    turn = TURNS.get(orientation(picture))
    rgb = to_rgb(picture)
    return rgb if turn is None else rgb.transpose(turn)


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, if there is none or it cannot be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds on damaged EXIF; the pixels are intact
        return 1
    return found if isinstance(found, int) else 1


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a decoded picture as RGB on white.

    Raises:
        ValueError: if its numbers have no known meaning as colours.
    """
    if picture.mode in ("I", "F"):
        raise ValueError("got 32 bits per channel, which have no known white; expected 8 or 16")
    if picture.mode.startswith("I;16"):
        picture = high_byte(picture)
    elif picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # Pillow reads every JPEG as Adobe's, inverted
    if picture.has_transparency_data:
        picture = on_white(picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def on_white(picture: Image.Image) -> Image.Image:
    """Composite an RGBA picture on white; opaque colours stay as they are."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def high_byte(picture: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture in 8 bits, floor(x / 256); its transparent grey as alpha."""
    grey_HW = np.asarray(picture)
    result = Image.fromarray((grey_HW >> 8).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if transparent is not None:
        result.putalpha(Image.fromarray(np.where(grey_HW == transparent, 0, 255).astype(np.uint8)))
    return result
