"""A folder of pictures becomes a table, whatever lies in it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.serving.batch import find_pictures, load_ahead
from stages import predict
from tests.helpers.registry_world import NAME, World, frame

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the toy backbone and registry, and a folder of pictures, two of them bad."""
    yaml = YAML()
    params = yaml.load(PARAMS.read_text())
    params["backbone"]["name"] = str(world.folder / "clip")
    params["register"]["name"] = NAME
    params["tracking"] = {"uri": world.uri, "experiment": "toy"}
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    pictures = tmp_path / "pictures"
    (pictures / "déep" / "er").mkdir(parents=True)
    for i, data in enumerate(world.images["fruit"][:10]):
        (pictures / ("déep/er" if i % 2 else ".") / f"{i}.png").write_bytes(data)
    (pictures / "3-text.jpg").write_text("no picture")
    (pictures / "déep" / "cut.PNG").write_bytes(world.images["fruit"][0][:90])
    (pictures / "notes.txt").write_text("left out")
    monkeypatch.chdir(tmp_path)
    return pictures


def expected(world: World, paths: list[str], params: dict[str, object]) -> list[list[str]]:
    images = [Path(path).read_bytes() for path in paths]
    return list(world.load().predict(frame(images), params=params)["top_classes"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("chunk", ["1", "4", "64"])
def test_rows_are_the_models_answers_and_errors_stand_beside_them(
    world: World, project: Path, suffix: str, chunk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project.parent / f"out{suffix}"
    predict.main([str(project), "--out", str(out), "--chunk", chunk, "--workers", "2"])
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert table["path"].tolist() == [str(path) for path in find_pictures(project)]
    assert len(table) == 12
    bad = table[table["error"].notna()]
    assert [Path(path).name for path in bad["path"]] == ["3-text.jpg", "cut.PNG"]
    assert bad["class_name"].isna().all()
    good = table[table["error"].isna()]
    found = good["top_classes"].map(json.loads if suffix == ".csv" else list).tolist()
    assert found == expected(world, good["path"].tolist(), {})
    assert good["class_name"].tolist() == [row[0] for row in found]
    told = capsys.readouterr()
    assert f"{out}: 10 pictures, 4 classes of fruit" in told.out
    assert "2 picture(s) cannot be read" in told.err
    assert "3-text.jpg: got 10 bytes, no readable image" in told.err


def test_new_names_tasks_and_prompt_files(world: World, project: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("zebra\n\nan ox, maybe\n", "utf-8")
    prompt = world.releases["champion"].prompts["tools"]
    ways = (
        (["--classes", "zebra, ox", "--task", "tools"], ["zebra", "ox"]),
        (["--classes-file", "names.txt", "--prompt", str(prompt)], ["zebra", "an ox, maybe"]),
        (["--candidates", "base", "--model", f"models:/{NAME}@champion"], ["apple", "pear"]),
    )
    for arguments, names in ways:
        predict.main([str(project), "--out", "out.parquet", *arguments])
        table = pd.read_parquet("out.parquet")
        table = table[table["error"].isna()]
        assert {name for row in table["top_classes"] for name in row} == set(names)
    with_prompt = ["--prompt", str(prompt)]
    predict.main([str(project), "--out", "out.parquet", *with_prompt])
    table = pd.read_parquet("out.parquet")
    table = table[table["error"].isna()]
    found = [list(row) for row in table["top_classes"]]
    assert found == expected(world, table["path"].tolist(), {"task": "tools"})


def test_strict_names_all_and_writes_nothing(project: Path) -> None:
    with pytest.raises(ValueError, match=r"2 of 12 [\s\S]*3-text\.jpg[\s\S]*cut\.PNG"):
        predict.main([str(project), "--out", "out.csv", "--strict", "--chunk", "1"])
    assert not list(project.parent.glob("*out.csv*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures", "--out", "x.txt"], "found '.txt'; allowed are .csv and .parquet"),
        (["gone", "--out", "x.csv"], "gone: found no folder"),
        (["empty", "--out", "x.csv"], "empty: found no picture"),
        (["pictures", "--out", "x.csv", "--classes", " , "], "found no name"),
        (["pictures", "--out", "x.csv", "--classes", "a,a"], "every name once"),
        (["pictures", "--out", "x.csv", "--classes-file", "gone"], "classes-file gone"),
        (["pictures", "--out", "x.csv", "--task", "birds"], "task: found 'birds'"),
        (["pictures", "--out", "x.csv", "--model", "models:/gone@x"], "models:/gone@x: not to be"),
        (["pictures", "--out", "x.csv", "--prompt", "gone.prompt"], "gone.prompt: not a readable"),
        (["pictures", "--out", "pictures/1/x.csv"], "--out pictures/1/x.csv: cannot be written"),
    ],
)
def test_wrong_arguments_are_named_before_work(
    project: Path, arguments: list[str], message: str
) -> None:
    (project.parent / "empty").mkdir()
    (project / "1").write_text("a file, no folder")
    with pytest.raises(ValueError, match=message):
        predict.main(arguments)


@pytest.mark.parametrize("option", [["--chunk", "0"], ["--workers", "x"], ["--candidates", "old"]])
def test_wrong_options_are_usage_errors(project: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit):
        predict.main([str(project), "--out", "x.csv", *option])


def test_one_chunk_is_read_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds two chunks, however many files there are."""
    read: list[Path] = []
    monkeypatch.setattr(
        "pipeline.serving.batch.read_picture", lambda path: read.append(path) or path
    )
    toy = SimpleNamespace(transform=str)
    chunks = [[Path(f"{n}-{i}") for i in range(3)] for n in range(10)]
    for taken, (files, found) in enumerate(load_ahead(toy, chunks, 2), start=1):
        assert files == chunks[taken - 1]
        assert found == [str(path) for path in files]
        assert len(read) <= 3 * (taken + 1)
    assert sorted(read) == sorted(path for chunk in chunks for path in chunk)
