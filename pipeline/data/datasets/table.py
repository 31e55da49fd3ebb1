"""Own pictures in a table: `<root>/<task>.csv` or `.parquet`, or a folder `<root>/<task>` of parts.

`table_reader` says what the columns mean. Parts are named after their split, as Hugging Face does:
`train-00000-of-00002.parquet`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import report_all
from pipeline.data.config import TableConfig
from pipeline.data.datasets.custom import Picture, build_own
from pipeline.data.datasets.files import content_hashes, find_each, listing_hash
from pipeline.data.datasets.table_reader import (
    SPLIT_NAMES,
    ClassKey,
    image_paths,
    read_row,
    read_table,
)
from pipeline.data.manifest import SPLITS, Manifest

PART = re.compile(r"(train|val|validation|test)([-_.].*)?\.(csv|parquet)")


def find(config: TableConfig, tasks: Sequence[str]) -> dict[str, str]:
    """Return a hash of the names, sizes and times of every task's tables and images.

    Raises:
        ValueError: naming every task without a readable table, or with several.
    """
    root = Path(config.root)

    def find_one(task: str) -> str:
        tables = [path for path, _ in find_parts(root, task)]
        named = [p for path in tables for p in image_paths(path, config.columns.image)]
        return listing_hash([*tables, *(path for path in named if path.is_file())], root)

    layout = "<task>.csv, <task>.parquet or <task>/<split>*.parquet"
    return find_each(find_one, tasks, config.root, layout)


def build(config: TableConfig, task: str) -> Manifest:
    """Build the manifest of a table, in its own order.

    With labels the classes keep their order, from 0 on; without, they are in alphabetical order.

    Raises:
        ValueError: on missing columns and images, and labels, splits or classes that are not
            known, all of them; and as `build_own` says.
    """
    root, problems = Path(config.root), []
    rows: list[tuple[ClassKey, Picture]] = []
    for path, split in find_parts(root, task):
        found, wrong = read_rows(config, task, path, split)
        rows += found
        problems += wrong
    report_all(f"{root / task}: {len(problems)} row(s) cannot be used", problems)
    label_of = {key: label for label, key in enumerate(sorted({key for key, _ in rows}))}
    files = [root / p.image["path"] for _, p in rows if not p.image["bytes"]]
    digests = iter(content_hashes(files))
    pictures = []
    for key, picture in rows:
        data = picture.image["bytes"]
        digest = hashlib.sha256(data).hexdigest() if data else next(digests)
        pictures.append(replace(picture, label=label_of[key], digest=digest))
    return build_own(config, "table", task, pictures)


def find_parts(root: Path, task: str) -> list[tuple[Path, str | None]]:
    """Return the files of a task's table, with the splits that their names say.

    Raises:
        ValueError: unless there is exactly one table, or a folder of parts named after splits.
    """
    folder = root / task
    single = [path for path in (root / f"{task}.csv", root / f"{task}.parquet") if path.is_file()]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    matches = [(name, match[1]) for name in names if (match := PART.fullmatch(name))]
    parts: list[tuple[Path, str | None]] = [
        (folder / name, split)
        for split in SPLITS
        for name, written in matches
        if SPLIT_NAMES[written] == split
    ]
    if len(single) + bool(parts) != 1:
        got = [str(path) for path in (*single, *(path for path, _ in parts))]
        raise ValueError(f"{folder}: got {got or 'no table'}; expected one")
    return [(single[0], None)] if single else parts


def read_rows(
    config: TableConfig, task: str, path: Path, split: str | None
) -> tuple[list[tuple[ClassKey, Picture]], list[str]]:
    """Return the rows of a file, and what is wrong with those that cannot be used.

    Raises:
        ValueError: if the file is no table, or lacks the image, or both class name and label.
    """
    root, columns = Path(config.root), config.columns
    records, names = read_table(path, columns)
    names = config.class_names.get(task, names)
    has = set(records[0]) if records else set()
    if "image" not in has or not ("class_name" in has or ("label" in has and names)):
        raise ValueError(
            f"{path}: got columns {sorted(has)}; expected {columns.image}, and "
            f"{columns.class_name} or {columns.label} with names in Hugging Face's metadata or in "
            f"prepare.table.class_names.{task}"
        )
    rows, problems = [], []
    prefix = path.parent.relative_to(root)
    for number, record in enumerate(records, 1):
        where = f"{path.name} row {number}"
        try:
            key, picture = read_row(record, where, prefix, names)
            if not picture.image["bytes"] and not (root / picture.image["path"]).is_file():
                raise ValueError(f"{where}: image {root / picture.image['path']}: no such file")
            rows.append((key, replace(picture, split=split or picture.split)))
        except ValueError as error:
            problems.append(str(error))
    return rows, problems
