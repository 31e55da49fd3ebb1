"""The contract of a data set: one Parquet table per task.

| column | type | meaning |
|---|---|---|
| image | struct<bytes, path> | an encoded picture, or the path of one (as Hugging Face does) |
| label | int64 | 0 to K - 1 |
| class_name | string | the name that the prompt is followed by; one per label |
| domain | string | where the picture comes from, for instance a drawing style |
| split | string | train, val or test |

The table's metadata holds the task's name and its zero-shot template.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import report_all
from pipeline.features import SPLITS
from pipeline.few_shot import Draws, split_base_new

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("image", IMAGE),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Manifest:
    """The images of a task, with columns image, label, class_name, domain and split."""

    name: str
    template: str
    rows: pd.DataFrame

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        names = self.rows.drop_duplicates("label").sort_values("label")
        return [str(name) for name in names["class_name"]]

    @property
    def images(self) -> pa.ChunkedArray:
        """The images as Arrow keeps them: a million paths take 100 MB, and workers share them."""
        images = pa.array(self.rows["image"], type=IMAGE)
        return images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([images])

    def in_split(self, split: str) -> np.ndarray:
        """Return which rows belong to a split, bool."""
        return (self.rows["split"] == split).to_numpy(dtype=bool)

    def chosen_rows(self, draws: Draws | None, without: Collection[int] = ()) -> np.ndarray:
        """Return the rows that are encoded, ascending.

        These are all validation and test images, since all of them are measured, and of the
        training images those that some draw gives, or all without draws. Rows in `without` take
        part in nothing, as if they were not there.
        """
        usable = np.ones(len(self.rows), dtype=bool)
        usable[list(without)] = False
        pool_T = np.flatnonzero(self.in_split("train") & usable)
        others = np.flatnonzero(~self.in_split("train") & usable)
        if draws is not None:
            pool_T = pool_T[draws.union(self.rows["label"].to_numpy()[pool_T].tolist())]
        return np.sort(np.concatenate([pool_T, others]))

    def n_encodings(self, views: int, draws: Draws | None = None) -> int:
        """Return how many pictures are encoded with `views` crops of each training image."""
        chosen_N = self.chosen_rows(draws)
        return len(chosen_N) + views * int(self.in_split("train")[chosen_N].sum())


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that would fail later: all its problems in one ValueError.

    Raises:
        ValueError: on unknown splits, labels that are not 0 to K - 1, labels with several
            names, fewer than 3 classes, classes without a training or test image, base classes
            without a validation image, and images that do not exist. None is decoded.
    """
    rows, problems = manifest.rows, []
    unknown = sorted(set(rows["split"]) - set(SPLITS))
    if unknown:
        problems.append(f"split {unknown}: allowed are {list(SPLITS)}")
    labels = sorted(set(rows["label"]))
    if labels != list(range(len(labels))):
        problems.append(f"labels {labels[:5]}...: allowed are 0 to {len(labels) - 1}, all of them")
    for label, names in rows.groupby("label")["class_name"]:
        if len(set(names)) > 1 or not str(names.iloc[0]).strip():
            problems.append(f"label {label}: class names {sorted(set(names))}, allowed is one")
    if len(labels) < 3:
        problems.append(
            f"{len(labels)} class(es): allowed are 3 or more, to train, select and test"
        )
    name_of = dict(zip(labels, manifest.class_names, strict=True))
    needed = {"train": labels, "val": split_base_new(labels)[0], "test": labels}
    for split, wanted in needed.items():
        present = set(rows.loc[rows["split"] == split, "label"])
        problems += [
            f"class {name_of[label]!r} has no {split} image"
            for label in wanted
            if label not in present
        ]
    for image in rows["image"]:
        if image["bytes"] is None and not (image["path"] and isfile(image["path"])):
            problems.append(f"image {image['path']}: no such file")
        elif image["bytes"] == b"":
            problems.append(f"image {image['path']}: 0 bytes")
    report_all(f"task {manifest.name}: {len(problems)} problem(s)", problems)


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Check a manifest and write it."""
    check_manifest(manifest)
    about = {"name": manifest.name, "template": manifest.template}
    schema = SCHEMA.with_metadata({"loqua": json.dumps(about)})
    table = pa.Table.from_pandas(manifest.rows, schema=schema, preserve_index=False)
    pq.write_table(table, path, compression="none")


def load_manifest(path: Path, with_images: bool = True) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: if the file is missing, damaged, or not a manifest.
    """
    columns = [name for name in SCHEMA.names if with_images or name != "image"]
    try:
        table = pq.read_table(path, columns=columns)
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[b"loqua"])
        rows = table.to_pandas(types_mapper={IMAGE: pd.ArrowDtype(IMAGE)}.get)
        return Manifest(about["name"], about["template"], rows)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable manifest: {error}") from None
