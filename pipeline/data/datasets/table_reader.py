"""How a table of pictures is read.

| column | meaning |
|---|---|
| image | a path, relative to the table's folder; in Parquet also a struct<bytes, path> or bytes |
| class_name | what is on it |
| label | instead of class_name or beside it: whole numbers, which give the order of classes |
| split | optional: train, val (or validation) or test |
| domain | optional |

The names of bare labels are in Hugging Face's metadata, or in params.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.config import Columns
from pipeline.data.datasets.custom import Picture, spoken
from pipeline.data.manifest import ONE_DOMAIN, SPLITS

SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "val"}

ClassKey = tuple[int, str]
"""What tells a row's class from others, and sorts the classes: its label, else its name."""


def read_table(path: Path, columns: Columns) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a file's rows, columns under our names, and the class names of Hugging Face.

    Raises:
        ValueError: if the file cannot be read.
    """
    ours = {own: name for name, own in columns.model_dump().items()}
    names: list[str] = []
    try:
        if path.suffix == ".csv":
            records = read_csv(path).to_dict("records")
        else:
            schema = pq.read_schema(path)
            table = pq.read_table(path, columns=[name for name in schema.names if name in ours])
            records = table.to_pylist()
            names = hugging_face_names(schema.metadata or {}, columns.label)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    return [{ours.get(str(key), str(key)): cell for key, cell in r.items()} for r in records], names


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file with all cells as text: a class may be called "NA"."""
    frame: pd.DataFrame = pd.read_csv(
        path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options
    )
    return frame


def hugging_face_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Return the names of a `ClassLabel` column, which `datasets` writes into the schema."""
    about = json.loads(metadata.get(b"huggingface", b"{}"))
    names: list[str] = about.get("info", {}).get("features", {}).get(label, {}).get("names", [])
    return names


def image_paths(path: Path, column: str) -> list[Path]:
    """Return the images that a table names, without reading those that it holds.

    Raises:
        ValueError: if the file cannot be read or lacks the column.
    """
    try:
        if path.suffix == ".csv":
            cells = read_csv(path, usecols=[column])[column].tolist()
        elif pa.types.is_struct(pq.read_schema(path).field(column).type):
            file = pq.ParquetFile(path)  # reads a part of a struct, as read_table does not
            found = file.read(columns=[f"{column}.path"])[column].to_pylist()
            cells = [cell["path"] for cell in found if cell]
        elif pa.types.is_binary(pq.read_schema(path).field(column).type):
            cells = []
        else:
            cells = pq.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    return [path.parent / cell for cell in cells if cell]


def read_row(
    record: dict[str, Any], where: str, prefix: Path, names: Sequence[str]
) -> tuple[ClassKey, Picture]:
    """Read one row, digest and final label apart; `prefix` leads from the root to the table.

    Raises:
        ValueError: on an empty image or class, a label without a name, or an unknown split.
    """
    data, path = read_image(record["image"])
    label = read_label(record["label"], where) if "label" in record else None
    name = record.get("class_name")
    if name is None and label is not None and 0 <= label < len(names):
        name = names[label]
    if not (data or path):
        raise ValueError(f"{where}: no image; expected a path or bytes")
    if not name or not name.strip():
        labels = f", or a label of 0 to {len(names) - 1}" if names else ""
        raise ValueError(f"{where}: got class {name!r}, label {label}; expected a name{labels}")
    split = record.get("split") or None
    if split is not None and split not in SPLIT_NAMES:
        raise ValueError(f"{where}: got split {split!r}; expected one of {sorted(SPLIT_NAMES)}")
    if path is not None and not data:
        path = where = (prefix / path).as_posix()
    name = spoken(name)
    key = (0, name) if label is None else (label, "")
    split = SPLIT_NAMES[split] if split else None
    domain = record.get("domain") or ONE_DOMAIN
    return key, Picture(where, {"bytes": data, "path": path}, "", -1, name, split, domain)


def read_image(cell: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and the path of an image's cell, None for what it lacks."""
    if isinstance(cell, dict):
        return cell.get("bytes") or None, cell.get("path") or None
    return (cell or None, None) if isinstance(cell, bytes) else (None, str(cell or "") or None)


def read_label(cell: Any, where: str) -> int:
    """Return a label.

    Raises:
        ValueError: unless it is a whole number.
    """
    try:
        return int(str(cell))
    except ValueError:
        raise ValueError(f"{where}: got label {cell!r}; expected a whole number") from None
