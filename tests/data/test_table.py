"""Own pictures in tables: CSV, Parquet, and what Hugging Face writes."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.config import Shares, TableConfig
from pipeline.data.datasets.table import build, find
from pipeline.data.manifest import check_manifest
from tests.helpers.pictures import png, put

COLUMNS = {name: name for name in ("image", "class_name", "label", "split", "domain")}
NAMES = ["cat", "apple_pie", "NA"]


def config(root: Path, **changes: object) -> TableConfig:
    plain = {
        "root": str(root),
        "template": "a photo of a {}.",
        "columns": COLUMNS,
        "class_names": {},
        "shares": Shares(train=0.5, val=0.2, test=0.3),
        "seed": 1,
    }
    return TableConfig(**{**plain, **changes})


def records(count: int = 12, start: int = 0) -> list[dict[str, Any]]:
    """Rows of pictures in three classes, which come in the order NA, cat, apple_pie."""
    return [
        {"image": f"images/{start + i}.png", "class_name": NAMES[(i + 2) % 3]} for i in range(count)
    ]


def write_csv(root: Path, rows: list[dict[str, Any]], name: str = "food.csv") -> None:
    """Write a table and the pictures that it names."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(root / name, index=False)
    for row in rows:
        put((root / name).parent / row["image"], int(Path(row["image"]).stem))


def hugging_face(path: Path, count: int, start: int = 0, column: str = "label") -> None:
    """Write what `datasets` writes: struct<bytes, path>, numbers, names in the metadata."""
    images = [{"bytes": png(start + i), "path": f"{i}.png"} for i in range(count)]
    about = {
        "info": {
            "features": {
                "image": {"_type": "Image"},
                column: {"names": NAMES, "_type": "ClassLabel"},
            }
        }
    }
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
         (column, pa.int64()), ("other", pa.string())],
        metadata={"huggingface": json.dumps(about)},
    )  # fmt: skip
    table = {"image": images, column: [i % 3 for i in range(count)], "other": ["x"] * count}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pydict(table, schema=schema), path)


def test_a_csv_of_paths_and_names(tmp_path: Path) -> None:
    write_csv(tmp_path, records(30))
    find(config(tmp_path), ["food"])
    manifest = build(config(tmp_path), "food")
    check_manifest(manifest, tmp_path)
    assert manifest.class_names == ["NA", "apple pie", "cat"]
    paths = [image["path"] for image in manifest.rows["image"]]
    assert paths == [f"images/{i}.png" for i in range(30)], "in the table's order"
    assert manifest.rows["class_name"].tolist()[:3] == ["NA", "cat", "apple pie"]
    assert manifest.counts == {"train": 15, "val": 6, "test": 9}
    assert set(manifest.rows["domain"]) == {"all"}


def test_splits_domains_and_labels_of_a_table_are_kept(tmp_path: Path) -> None:
    splits, domains = ("train", "validation", "test", "test"), ("day", "day", "day", "night")
    rows = [
        {**row, "label": (7, 3, 9)[i % 3], "split": splits[i // 3], "domain": domains[i // 3]}
        for i, row in enumerate(records(12))
    ]
    write_csv(tmp_path, rows)
    manifest = build(config(tmp_path), "food")
    check_manifest(manifest, tmp_path)
    assert manifest.class_names == ["cat", "NA", "apple pie"], "in the order of labels"
    assert manifest.rows["label"].tolist() == [1, 0, 2] * 4
    assert manifest.rows["split"].tolist() == sum(
        ([s] * 3 for s in ("train", "val", "test", "test")), []
    )
    assert manifest.rows["domain"].tolist() == ["day"] * 9 + ["night"] * 3


def test_a_table_of_hugging_face(tmp_path: Path) -> None:
    hugging_face(tmp_path / "food.parquet", 30)
    find(config(tmp_path), ["food"])
    manifest = build(config(tmp_path), "food")
    check_manifest(manifest)
    assert manifest.class_names == ["cat", "apple pie", "NA"], "in label order, not sorted"
    assert [image["bytes"] for image in manifest.rows["image"]] == [png(i) for i in range(30)]
    assert manifest.rows["label"].tolist() == [i % 3 for i in range(30)]


def test_parts_are_named_after_their_splits(tmp_path: Path) -> None:
    hugging_face(tmp_path / "food/train-00000-of-00002.parquet", 6)
    hugging_face(tmp_path / "food/train-00001-of-00002.parquet", 6, start=100)
    hugging_face(tmp_path / "food/validation-00000-of-00001.parquet", 3, start=200)
    hugging_face(tmp_path / "food/test.parquet", 3, start=300)
    (tmp_path / "food/README.md").write_text("a card")
    manifest = build(config(tmp_path), "food")
    check_manifest(manifest)
    assert manifest.counts == {"train": 12, "val": 3, "test": 3}
    write_csv(tmp_path, records(9), "fruit/train.csv")
    write_csv(tmp_path, records(3, start=90), "fruit/test.csv")
    manifest = build(config(tmp_path), "fruit")
    check_manifest(manifest, tmp_path)
    assert manifest.rows["image"][0]["path"] == "fruit/images/0.png"
    assert manifest.counts == {"train": 6, "val": 3, "test": 3}


def test_names_of_bare_labels_and_columns_come_from_params(tmp_path: Path) -> None:
    images = [{"img": png(i), "fine": i % 3} for i in range(12)]
    pd.DataFrame(images).to_parquet(tmp_path / "food.parquet")
    columns = {**COLUMNS, "image": "img", "label": "fine"}
    with pytest.raises(ValueError, match=r"columns \['image', 'label'\]; expected .*\.food"):
        build(config(tmp_path, columns=columns), "food")
    named = config(tmp_path, columns=columns, class_names={"food": ["x", "y", "z"]})
    find(named, ["food"])
    assert build(named, "food").class_names == ["x", "y", "z"]
    too_few = config(tmp_path, columns=columns, class_names={"food": ["x", "y"]})
    with pytest.raises(ValueError, match=r"4 row\(s\).*\n.*got class None, label 2; .* 0 to 1"):
        build(too_few, "food")


def test_parquet_of_paths(tmp_path: Path) -> None:
    write_csv(tmp_path, records(12))
    frame = pd.read_csv(tmp_path / "food.csv", keep_default_na=False)
    (tmp_path / "food.csv").unlink()
    structs = [{"bytes": None, "path": path} for path in frame["image"]]
    for images in (frame["image"], structs):
        frame.assign(image=images).to_parquet(tmp_path / "food.parquet")
        before = find(config(tmp_path), ["food"])
        manifest = build(config(tmp_path), "food")
        check_manifest(manifest, tmp_path)
        assert manifest.rows["image"][5]["path"] == "images/5.png"
        put(tmp_path / "images/5.png", 900)
        assert find(config(tmp_path), ["food"]) != before, "images are watched, too"
        put(tmp_path / "images/5.png", 5)


def test_every_row_that_cannot_be_used_is_listed(tmp_path: Path) -> None:
    rows = [{**row, "label": i % 3, "split": ""} for i, row in enumerate(records(30))]
    write_csv(tmp_path, rows)
    rows[0]["image"] = "images/gone.png"
    rows[1]["image"] = ""
    rows[2]["class_name"] = " "
    rows[3]["label"] = "two"
    rows[4]["label"] = ""
    rows[5]["split"] = "dev"
    pd.DataFrame(rows).to_csv(tmp_path / "food.csv", index=False)
    with pytest.raises(ValueError, match=r"6 row\(s\) cannot be used") as caught:
        build(config(tmp_path), "food")
    for text in (
        f"food.csv row 1: image {tmp_path}/images/gone.png: no such file",
        "food.csv row 2: no image",
        "food.csv row 3: got class ' '",
        "food.csv row 4: got label 'two'; expected a whole number",
        "food.csv row 5: got label ''",
        "food.csv row 6: got split 'dev'; expected one of ['test', 'train', 'val', 'validation']",
    ):
        assert text in str(caught.value)


def test_missing_unreadable_and_double_tables_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    write_csv(tmp_path, [{"image": "0.png", "class_name": "x"}], "double.csv")
    hugging_face(tmp_path / "double.parquet", 3)
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="<task>.csv") as caught:
        find(config(tmp_path), ["none", "broken", "double", "other"])
    for text in (
        "none: got no table",
        "broken.parquet: not a readable",
        "double.csv",
        "other.csv",
    ):
        assert text in str(caught.value)


def test_copies_in_tables_are_left_out_and_clashes_listed(tmp_path: Path) -> None:
    rows = records(12)
    write_csv(tmp_path, rows)
    put(tmp_path / "images/12.png", 3)
    same = [*rows, {"image": "images/12.png", "class_name": rows[3]["class_name"]}]
    pd.DataFrame(same).to_csv(tmp_path / "food.csv", index=False)
    assert build(config(tmp_path), "food").notes["copies"] == [["images/3.png", "images/12.png"]]
    wrong = [*rows, {"image": "images/12.png", "class_name": "cat"}]
    pd.DataFrame(wrong).to_csv(tmp_path / "food.csv", index=False)
    with pytest.raises(ValueError, match=r"images/3.png \(NA\) = images/12.png \(cat\)"):
        build(config(tmp_path), "food")


def test_bytes_in_two_rows_are_copies_too(tmp_path: Path) -> None:
    hugging_face(tmp_path / "food/train.parquet", 12)
    hugging_face(tmp_path / "food/test.parquet", 3)
    manifest = build(config(tmp_path), "food")
    assert manifest.counts == {"train": 6, "val": 3, "test": 3}
    assert ["test.parquet row 1", "train.parquet row 1"] in manifest.notes["copies"]
