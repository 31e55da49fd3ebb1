"""`loqua predict`: a folder of pictures becomes a table, whatever is in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.serving.batch import find_pictures
from tests.helpers.cli import loqua
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
    (pictures / "notes.txt").write_text("ignored")
    monkeypatch.chdir(tmp_path)
    return pictures


def expected(world: World, paths: list[str], params: dict[str, object]) -> list[list[str]]:
    images = [Path(path).read_bytes() for path in paths]
    return list(world.load().predict(frame(images), params=params)["top_classes"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("chunk", ["1", "4", "64"])
def test_rows_are_the_models_answers_or_the_reason_why_there_is_none(
    world: World, project: Path, suffix: str, chunk: str
) -> None:
    out = project.parent / f"out{suffix}"
    done = loqua("predict", project, "--out", out, "--chunk", chunk, "--workers", 2)
    assert done.exit_code == 0, done.output
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
    assert f"{out}: 10 pictures, 4 classes of fruit" in done.stdout
    assert "2 picture(s) cannot be read" in done.stderr
    assert "3-text.jpg: " in done.stderr


def test_new_names_tasks_and_prompt_files(world: World, project: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("zebra\n\nan ox, maybe\n", "utf-8")
    prompt = world.releases["champion"].prompts["tools"]
    ways = (
        (["--classes", "zebra, ox", "--task", "tools"], ["zebra", "ox"]),
        (["--classes-file", "names.txt", "--prompt", str(prompt)], ["zebra", "an ox, maybe"]),
        (["--candidates", "base", "--model", f"models:/{NAME}@champion"], ["apple", "pear"]),
    )
    for arguments, names in ways:
        assert loqua("predict", project, "--out", "out.parquet", *arguments).exit_code == 0
        table = pd.read_parquet("out.parquet")
        table = table[table["error"].isna()]
        assert {name for row in table["top_classes"] for name in row} == set(names)
    assert loqua("predict", project, "--out", "out.parquet", "--prompt", prompt).exit_code == 0
    table = pd.read_parquet("out.parquet")
    table = table[table["error"].isna()]
    found = [list(row) for row in table["top_classes"]]
    assert found == expected(world, table["path"].tolist(), {"task": "tools"})


def test_strict_names_all_and_writes_nothing(project: Path) -> None:
    done = loqua("predict", project, "--out", "out.csv", "--strict", "--chunk", 1)
    assert done.exit_code == 1
    assert re.search(r"error: 2 of 12 [\s\S]*3-text\.jpg[\s\S]*cut\.PNG", done.stderr)
    assert not list(project.parent.glob("*out.csv*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pictures", "--out", "x.txt"], "--out x.txt: "),
        (["gone", "--out", "x.csv"], "gone: "),
        (["empty", "--out", "x.csv"], "empty: "),
        (["pictures", "--out", "x.csv", "--classes", " , "], "--classes: got no name"),
        (["pictures", "--out", "x.csv", "--classes", "a,a"], "classes: "),
        (["pictures", "--out", "x.csv", "--classes-file", "gone"], "--classes-file gone: "),
        (["pictures", "--out", "x.csv", "--task", "birds"], "task: "),
        (["pictures", "--out", "x.csv", "--model", "models:/gone@x"], "models:/gone@x: "),
        (["pictures", "--out", "x.csv", "--prompt", "gone.prompt"], "gone.prompt: "),
        (["pictures", "--out", "pictures/1/x.csv"], "--out pictures/1/x.csv: cannot be written"),
    ],
)
def test_a_mistake_is_named_in_one_message(project: Path, arguments: list[str], said: str) -> None:
    (project.parent / "empty").mkdir()
    (project / "1").write_text("a file, no folder")
    done = loqua("predict", *arguments)
    assert done.exit_code == 1
    assert f"error: {said}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--chunk", "0"],
        ["--workers", "x"],
        ["--candidates", "old"],
        ["--classes", "a", "--classes-file", "names.txt"],
        ["--model", "models:/a@b", "--prompt", "a.prompt"],
    ],
)
def test_wrong_options_are_usage_errors(project: Path, options: list[str]) -> None:
    assert loqua("predict", project, "--out", "x.csv", *options).exit_code == 2
