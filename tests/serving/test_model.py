"""A registered model predicts what was measured, wherever it is loaded, and opens no files."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.clip.folder import build_clip, save_clip
from pipeline.clip.similarity import logits
from pipeline.data.classes import split_base_new
from pipeline.prompts.file import load_prompt
from pipeline.serving import model as served_model
from pipeline.serving.model import decode_image
from pipeline.serving.predictor import load_model_files
from tests.helpers.registry_world import CONFIG, METHODS, NAME, ROLES, World, b64, frame

FRESH = """
import base64, json, sys
sys.path.append({packages!r})
try:
    import pipeline
    raise SystemExit("the project is importable: this proves nothing")
except ModuleNotFoundError:
    pass
import mlflow, pandas as pd
calls = json.load(open({calls!r}))
answers, models = [], {{}}
for call in calls:
    uri = call["uri"]
    model = models[uri] = models.get(uri) or mlflow.pyfunc.load_model(uri)
    images = call["images"]
    if call["as_bytes"]:
        images = [base64.b64decode(text) for text in images]
    answer = model.predict(pd.DataFrame({{"image": images}}), params=call["params"])
    answers.append(answer.to_dict(orient="list"))
import pipeline
json.dump({{"answers": answers, "pipeline": pipeline.__file__}}, open({answers!r}, "w"))
"""


def test_a_fresh_process_without_the_project_reproduces_the_measured_accuracy(
    world: World, tmp_path: Path
) -> None:
    """Same accuracy as `measure_prompts`, of every prompt, from bytes and from base64."""
    calls, expected = [], []
    for role in METHODS:  # the last names its towers, and has no alias
        for task, features in world.features.items():
            about = load_prompt(world.releases[role].prompts[task])[1]
            halves = split_base_new(range(len(features.class_names)))
            for candidates, classes in zip(("base", "new"), halves, strict=True):
                rows = [
                    i
                    for i in range(30)
                    if int(features.label_N[i]) in classes and int(features.split_N[i]) == 2
                ]
                calls.append(
                    {
                        "uri": f"models:/{NAME}/{world.registered[role].version}",
                        "as_bytes": candidates == "new",
                        "images": [b64(world.images[task][i]) for i in rows],
                        "params": {"task": task, "candidates": candidates},
                    }
                )
                truth = [features.class_names[int(features.label_N[i])] for i in rows]
                expected.append((truth, about["scores"][candidates]))
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    script = FRESH.format(
        packages=str(Path(mlflow.__file__).parents[1]),
        calls=str(tmp_path / "calls.json"),
        answers=str(tmp_path / "out.json"),
    )
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], check=True, cwd=tmp_path, timeout=300
    )
    out = json.loads((tmp_path / "out.json").read_text())
    assert "pipeline/__init__.py" in out["pipeline"]
    assert not out["pipeline"].startswith(str(Path(served_model.__file__).parents[1]))
    for answer, (truth, measured) in zip(out["answers"], expected, strict=True):
        hits = [a == b for a, b in zip(answer["class_name"], truth, strict=True)]
        assert sum(hits) / len(hits) == pytest.approx(measured, abs=1e-12)
    assert len({measured for _, measured in expected}) > 1


@pytest.mark.parametrize("role", ROLES)
def test_probabilities_are_the_softmax_of_scaled_cosines(world: World, role: str) -> None:
    """Over all classes of the default task, the first one, best five first."""
    features, prompt = world.features["fruit"], world.prompt("fruit", role)
    text = world.backbone.text_side(prompt.init, features.class_names)
    names = text.pack(features.class_names, prompt.n_ctx)
    class_KE = text.class_embeddings([prompt], names)[0]
    expected = logits(features.features_NE, class_KE, text.logit_scale).softmax(dim=-1)
    answer = world.load(role).predict(frame(world.images["fruit"]))
    assert list(answer) == ["class_name", "probability", "top_classes", "top_probabilities"]
    for row, probability_K in zip(answer.to_dict("records"), expected, strict=True):
        got = dict(zip(row["top_classes"], row["top_probabilities"], strict=True))
        assert [got[name] for name in features.class_names] == pytest.approx(
            probability_K.tolist(), abs=1e-4
        )
        assert row["class_name"] == row["top_classes"][0]
        assert row["probability"] == max(row["top_probabilities"])


def test_bytes_and_base64_and_mixed_columns_are_the_same(world: World) -> None:
    """Line breaks in base64 are allowed, as in mail."""
    data, model = world.images["fruit"][:2], world.load()
    expected = model.predict(frame(data))
    for images in (
        [b64(d) for d in data],
        [data[0], b64(data[1])],
        [base64.encodebytes(d).decode() for d in data],
    ):
        pd.testing.assert_frame_equal(model.predict(frame(images)), expected)


def test_new_class_names_replace_the_tasks_own_and_are_cached(world: World) -> None:
    """The prompt is class-agnostic; the text tower runs once per task and class list."""
    model = world.load()
    inner = model.unwrap_python_model()
    params = {"classes": ["zebra", "a very odd thing"], "task": "tools"}
    first = model.predict(frame(world.images["tools"][:3]), params=params)
    cached = inner.predictor.cached_embeddings
    misses = cached.cache_info().misses
    second = model.predict(frame(world.images["tools"][:3]), params=params)
    pd.testing.assert_frame_equal(first, second)
    assert cached.cache_info().misses == misses
    assert {name for row in first["top_classes"] for name in row} == set(params["classes"])
    assert [sum(row) for row in first["top_probabilities"]] == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"task": "birds"}, r"task: found 'birds'; allowed are \['fruit', 'tools'\]"),
        ({"candidates": "old"}, "candidates: found 'old'"),
        ({"classes": ["a", "a"]}, "every name once"),
        ({"classes": ["a", " "]}, "1 to 200 characters"),
        ({"classes": ["x" * 201]}, "1 to 200 characters"),
        ({"classes": [str(n) for n in range(2001)]}, "found 2001; allowed are 2000"),
        ({"classes": [f"{n:0200d}" for n in range(501)]}, "100200 characters in all"),
        ({"classes": ["a\ud800"]}, "1 to 200 characters"),
        ({"classes": ["<end_of_text>" * 9]}, "too long for n_ctx 2"),
        ({"classes": ["word " * 20]}, "too long for n_ctx 2"),
        ({"classes": "cat"}, "1D array"),
    ],
)
def test_wrong_params_are_named(world: World, params: dict[str, Any], message: str) -> None:
    """Every mistake is the caller's: INVALID_PARAMETER_VALUE, which is HTTP 400."""
    with pytest.raises(MlflowException, match=message) as caught:
        world.load().predict(frame(world.images["fruit"][:1]), params=params)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """Return a small file that claims many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no picture", "no readable image"),
        (b"", "no readable image"),
        ("", "no readable image"),
        ("aGVsbG8gd29ybGQ=", "no readable image"),
        ("not base64!", "no base64"),
        ("http://localhost/cat.png", "no base64"),
        (None, "found NoneType"),
        (5, "found int"),
        (huge_png(8000, 8000), "64000000 pixels"),
        (huge_png(30_000, 30_000), "exceeds limit"),
        (huge_png(1, 5000), "100 times the short one"),
        (huge_png(50, 50), "damaged or truncated"),
        (bytes(served_model.MAX_BYTES + 1), "bytes; allowed are"),
        ("A" * (2 * served_model.MAX_BYTES + 1), "characters of base64"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    """With a reason; pixels are counted before they are decoded."""
    with pytest.raises(ValueError, match=message):
        decode_image(image)


def test_every_bad_image_is_named_by_its_row(world: World) -> None:
    """And no good one; a cut-off file is bad."""
    good = world.images["fruit"][0]
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(good)).convert("RGB").save(jpeg, "JPEG")
    bad = [good, good[: len(good) // 2], b64(good), jpeg.getvalue()[:-40], None]
    with pytest.raises(MlflowException, match=r"3 of 5[\s\S]*image 1[\s\S]*image 3") as caught:
        world.load().predict(frame(bad))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    with pytest.raises(MlflowException, match="schema|no row"):
        world.load().predict(frame([]))


def test_too_much_at_once_is_refused_before_anything_is_decoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are counted, and the pixels that headers claim."""
    decoded: list[object] = []
    monkeypatch.setattr(served_model, "decode_picture", lambda *found: decoded.append(found))
    inner = world.load().unwrap_python_model()
    many = frame([b64(world.images["fruit"][0])] * (served_model.MAX_IMAGES + 1))
    large = frame([huge_png(5000, 6000)] * 18)
    for images, message in ((many, "found 1001 rows"), (large, "540000000 pixels in all")):
        with pytest.raises(MlflowException, match=message) as caught:
            inner.predict(None, images)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert not decoded


def test_a_path_is_never_opened(world: World, tmp_path: Path) -> None:
    """Not even of a readable picture, and not if the path happens to be base64."""
    model = world.load()
    path = tmp_path / "real.png"
    path.write_bytes(world.images["fruit"][0])
    (tmp_path / "abcd").write_bytes(world.images["fruit"][0])
    opened: list[str] = []
    watching = True  # a hook cannot be taken away again

    def watch(event: str, args: Any) -> None:
        if watching and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(watch)
    cwd = Path.cwd()
    try:
        os.chdir(tmp_path)
        for text in (str(path), f"file://{path}", "real.png", "abcd"):
            with pytest.raises(MlflowException, match="no base64|no readable image"):
                model.predict(frame([text]))
    finally:
        os.chdir(cwd)
    watching = False
    touched = [name for name in opened if name.endswith(("real.png", "abcd"))]
    assert touched == []


def test_another_backbone_is_refused(world: World, tmp_path: Path) -> None:
    """Prompts mean nothing to weights that they were not learned for."""
    torch.manual_seed(1)
    save_clip(tmp_path / "clip", build_clip(CONFIG, 16)[0], CONFIG)
    release = world.releases["champion"]
    (tmp_path / "model.json").write_text(json.dumps(release.about))
    (tmp_path / "prompts").mkdir()
    for task, path in release.prompts.items():
        (tmp_path / "prompts" / f"{task}.prompt").write_bytes(path.read_bytes())

    model, prompts, towers = (str(tmp_path / name) for name in ("model.json", "prompts", "clip"))

    class Context:
        artifacts = {"model": model, "prompts": prompts, "backbone": towers}

    with pytest.raises(ValueError, match="learned for a backbone with fingerprint"):
        served_model.PromptModel().load_context(Context())


def test_named_towers_that_are_gone_are_told_with_what_helps(world: World, tmp_path: Path) -> None:
    """The model names a folder; where that is not there, it says how the towers can travel."""
    about = world.releases["pareto-2"].about
    assert about["backbone"]["name"] == str(world.folder / "clip")
    about["backbone"]["name"] = str(tmp_path / "gone")
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"gone[\s\S]*register\.with_towers: true"):
        load_model_files(tmp_path)
