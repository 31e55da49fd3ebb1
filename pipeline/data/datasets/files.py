"""Files below a folder; what cannot be read is one error that names every path."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.errors import report_all
from pipeline.core.hashes import file_hash

T = TypeVar("T")


def find_files(folder: Path) -> list[Path]:
    """Return all files below a folder, hidden ones left out, links followed.

    Raises:
        ValueError: naming every folder that cannot be read, every link that leads nowhere or back
            to a folder that it is in, and whatever else is neither a file nor a folder.
    """
    found: list[Path] = []
    problems: list[str] = []
    above = {identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    todo = [(folder, above)]
    while todo:
        inside, above = todo.pop()
        try:
            own = identity(inside)
            if own in above:
                problems.append(f"{inside}: a link to a folder that it is in")
                continue
            with os.scandir(inside) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            problems.append(f"{inside}: {error.strerror}")
            continue
        for entry in entries:
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    todo.append((path, above | {own}))
                elif entry.is_file():
                    found.append(path)
                else:
                    entry.stat()
                    problems.append(f"{path}: neither a file nor a folder")
            except OSError as error:
                what = "a link that leads nowhere: " if entry.is_symlink() else ""
                problems.append(f"{path}: {what}{error.strerror}")
    report_all(f"{folder}: {len(problems)} path(s) cannot be read; fix or remove them", problems)
    return found


def identity(path: Path) -> tuple[int, int]:
    """Return what two paths of the same file or folder share."""
    status = path.stat()
    return status.st_dev, status.st_ino


def find_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, hidden ones left out, by name; none if it does not exist.

    Raises:
        ValueError: if the folder cannot be read.
    """
    try:
        inside = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None
    return sorted(inside, key=lambda path: normal(path.name))


def normal(text: str) -> str:
    """Return a name in the one form in which machines agree on it (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text)


def read_each(read: Callable[[Path], T], paths: Sequence[Path], run: Any = map) -> list[T]:
    """Return what `read` returns for each path, called by `run`.

    Raises:
        ValueError: naming every path that cannot be read, for instance because it has vanished.
    """
    problems = []

    def try_one(path: Path) -> T | None:
        try:
            return read(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            return None

    results = [result for result in run(try_one, paths) if result is not None]
    report_all(f"{len(problems)} file(s) cannot be read", sorted(problems))
    return results


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file.

    Raises:
        ValueError: naming every file that cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        return read_each(file_hash, paths, pool.map)


def listing_hash(paths: Sequence[Path], root: Path) -> str:
    """Return a hash of the names below `root`, sizes and times of files, wherever `root` is.

    Their content is not read.

    Raises:
        ValueError: naming every file that is gone.
    """
    lines = [
        f"{Path(os.path.relpath(path, root)).as_posix()} {status.st_size} {status.st_mtime_ns}"
        for path, status in zip(paths, read_each(Path.stat, paths), strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def find_each(
    find: Callable[[str], str], tasks: Sequence[str], root: str, layout: str
) -> dict[str, str]:
    """Return what `find` returns for each task, a hash of its data.

    Raises:
        ValueError: with the errors of all tasks whose data cannot be used, and the layout.
    """
    problems, hashes = [], {}
    for task in tasks:
        try:
            hashes[task] = find(task)
        except ValueError as error:
            problems.append(f"{task}: {error}")
    report_all(
        f"{root}: {len(problems)} of {len(tasks)} task(s) cannot be used; the layout is {layout}",
        problems,
    )
    return hashes
