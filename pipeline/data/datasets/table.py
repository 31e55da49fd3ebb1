"""Own pictures in a table: `<root>/<task>.csv` or `.parquet`, or a folder `<root>/<task>` of parts.

What the columns mean is said in `table_rows`. Parts are named after their split, as Hugging Face
does: `train-00000-of-00002.parquet`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import report_all
from pipeline.core.hashes import file_hash
from pipeline.data.config import TableConfig
from pipeline.data.datasets.custom import Picture, build_own, files_hash
from pipeline.data.datasets.table_reader import SPLIT_NAMES, Row, image_paths, read_row, read_table
from pipeline.data.manifest import SPLITS, Manifest

PART = re.compile(r"(train|val|validation|test)([-_.].*)?\.(csv|parquet)")


def find(config: TableConfig, tasks: Sequence[str]) -> dict[str, str]:
    """Return a hash of the names, sizes and times of every task's tables and images.

    Raises:
        ValueError: naming every task without a readable table, or with several.
    """
    root, problems, hashes = Path(config.root), [], {}
    for task in tasks:
        try:
            paths = [path for path, _ in find_parts(root, task)]
            named = [p for path in paths for p in image_paths(path, config.columns.image)]
            there = [path for path in named if path.is_file()]
            hashes[task] = files_hash([*paths, *there], root)
        except ValueError as error:
            problems.append(str(error))
    report_all(
        f"tables are missing; the layout is {root}/<task>.csv, {root}/<task>.parquet or "
        f"{root}/<task>/<split>*.parquet",
        problems,
    )
    return hashes


def build(config: TableConfig, task: str) -> Manifest:
    """Build the manifest of a table, in its own order.

    With labels the classes keep their order, from 0 on; without, they are in alphabetical order.

    Raises:
        ValueError: on missing columns and images, and labels, splits or classes that are not
            known, all of them; and as `build_own` says.
    """
    root, problems = Path(config.root), []
    rows: list[Row] = []
    for path, split in find_parts(root, task):
        found, wrong = read_rows(config, task, path, split)
        rows += found
        problems += wrong
    report_all(f"{root / task}: {len(problems)} row(s) cannot be used", problems)
    label_of = {key: label for label, key in enumerate(sorted({row.class_key for row in rows}))}
    pictures = [
        Picture(
            row.where,
            {"bytes": row.data, "path": row.path},
            hashlib.sha256(row.data).hexdigest() if row.data else file_hash(root / str(row.path)),
            label_of[row.class_key],
            row.class_name,
            row.split,
            row.domain,
        )
        for row in rows
    ]
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
        for name, found in matches
        if SPLIT_NAMES[found] == split
    ]
    if len(single) + bool(parts) != 1:
        found = [str(path) for path in (*single, *(path for path, _ in parts))]
        raise ValueError(f"{folder}: found {found or 'no table'}; allowed is one")
    return [(single[0], None)] if single else parts


def read_rows(
    config: TableConfig, task: str, path: Path, split: str | None
) -> tuple[list[Row], list[str]]:
    """Return the rows of a file, and what is wrong with those that cannot be used.

    Raises:
        ValueError: if the file is no table, or lacks the image, or both class name and label.
    """
    root = Path(config.root)
    records, names = read_table(path, config.columns)
    names = config.class_names.get(task, names)
    has = set(records[0]) if records else set()
    if "image" not in has or not ("class_name" in has or ("label" in has and names)):
        columns = config.columns
        raise ValueError(
            f"{path}: found columns {sorted(has)}; needed are {columns.image}, and "
            f"{columns.class_name} or {columns.label} with names in Hugging Face's metadata or in "
            f"prepare.table.class_names.{task}"
        )
    rows, problems = [], []
    for number, record in enumerate(records, 1):
        where, prefix = f"{path.name} row {number}", path.parent.relative_to(root)
        try:
            row = read_row(record, where, prefix, names)
            if not row.data and not (root / str(row.path)).is_file():
                raise ValueError(f"{where}: image {root / str(row.path)}: no such file")
            rows.append(replace(row, split=split or row.split))
        except ValueError as error:
            problems.append(str(error))
    return rows, problems
