"""What cannot be decoded has a reason, and costs nothing."""

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from pipeline.data.decode import LIMITS, Limits, decode_picture, read_picture
from tests.helpers.picture_files import H, W, encoded, png


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    return png(8, 2, b"\0", (width, height))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes, no readable image"),
        (b"<html>404 Not Found</html>", "26 bytes, no readable image; expected one of PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable image"),
        (bomb(9_500, 9_500), "got 90250000 pixels; expected at most 89478485"),
        (bomb(60_000, 60_000), "no readable image .*exceeds limit"),
        (bomb(1, 101), "1 x 101 pixels; .* 100 times the short one"),
        (bomb(9, 9), "damaged or truncated PNG"),
        (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), "32 bits per channel"),
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
        with pytest.raises(ValueError, match="got 960 pixels; expected at most 959"):
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
