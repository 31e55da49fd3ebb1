"""Folders as users have them: links, files that are none, folders that cannot be read."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.data.datasets.files import content_hashes, find_files, find_folders, listing_hash


@contextmanager
def not_root() -> Iterator[None]:
    """Read as an ordinary user does: root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_links_are_followed_and_hidden_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("far/a.jpg", "far/.b.jpg", "alone.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "pets/.git").mkdir(parents=True)
    (tmp_path / "pets/.git/config").touch()
    (tmp_path / "pets/first").symlink_to("../far")
    (tmp_path / "pets/second").symlink_to("../far")
    (tmp_path / "pets/c.jpg").symlink_to("../alone.jpg")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path / "pets"))
    assert found == ["pets/c.jpg", "pets/first/a.jpg", "pets/second/a.jpg"]
    assert find_folders(tmp_path / "pets") == [tmp_path / "pets" / n for n in ("first", "second")]


def test_everything_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.jpg").touch()
    (tmp_path / "pets/cat/gone.jpg").symlink_to("no/such/file")
    (tmp_path / "pets/cat/self").symlink_to("self")
    (tmp_path / "pets/cat/up").symlink_to("../..")
    (tmp_path / "pets/cat/friend").symlink_to("../dog")
    (tmp_path / "pets/dog/friend").symlink_to("../cat")
    os.mkfifo(tmp_path / "pets/dog/pipe.jpg")
    with pytest.raises(ValueError, match=f"{tmp_path}/pets: ") as caught:
        find_files(tmp_path / "pets")
    lines = str(caught.value).splitlines()
    for expected in (
        "cat/gone.jpg: a link that leads nowhere: No such file",
        "cat/self: a link that leads nowhere: Too many levels",
        "cat/up: a link to a folder that it is in",
        "cat/friend/friend: a link to a folder that it is in",
        "dog/pipe.jpg: neither a file nor a folder",
    ):
        assert len([line for line in lines if f"- {tmp_path}/pets/{expected}" in line]) == 1


def test_folders_that_cannot_be_read_are_named() -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        closed = Path(root, "pets/cat")
        closed.mkdir(parents=True)
        closed.chmod(0)
        with not_root():
            with pytest.raises(ValueError, match=f"{closed}: Permission denied"):
                find_files(closed.parent)
            with pytest.raises(ValueError, match=f"{closed}: Permission denied"):
                find_folders(closed)
    assert find_folders(closed) == []


def test_files_that_vanish_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for read in (content_hashes, lambda paths: listing_hash(paths, tmp_path)):
        with pytest.raises(ValueError, match=r"2 file\(s\) cannot be read") as caught:
            read(paths)
        assert f"{tmp_path}/0.jpg: No such file" in str(caught.value)
        assert f"{tmp_path}/2.jpg: No such file" in str(caught.value)
