"""A registered model predicts what was measured, wherever it is loaded, and opens no files."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline import served_model
from pipeline.backbone import Backbone, BackboneConfig, build_clip, load_backbone, save_clip
from pipeline.client import encode_images, predict
from pipeline.encode import encode_task
from pipeline.features import FeaturesConfig, TaskFeatures
from pipeline.few_shot import split_base_new
from pipeline.manifest import Manifest
from pipeline.metrics import harmonic_mean, logits
from pipeline.packed_prompt import load_prompt, packed_size, save_prompt
from pipeline.prompts import Prompt, PromptConfig
from pipeline.registry import Registered, register
from pipeline.release import ROLES, Release
from pipeline.run import measure_prompts
from pipeline.served_model import decode_image
from pipeline.stored_prompt import StoredPrompt
from pipeline.tracking import Tracker, TrackingConfig

TASKS = {"fruit": ["apple", "pear", "plum", "fig"], "tools": ["hammer", "hand_saw", "drill"]}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAME, SEED = "toy", 3


@dataclass(frozen=True)
class World:
    """A toy backbone, tasks with measured prompts, and both roles registered."""

    folder: Path
    backbone: Backbone
    features: dict[str, TaskFeatures]
    images: dict[str, list[bytes]]
    tracker: Tracker
    releases: dict[str, Release]
    registered: dict[str, Registered]

    def load(self, role: str = "champion") -> Any:
        """Load a role's model in this process."""
        return mlflow.pyfunc.load_model(f"models:/{NAME}@{role}")

    def prompt(self, task: str, role: str = "champion") -> StoredPrompt:
        """Return a prompt as it is on disk."""
        return load_prompt(self.releases[role].prompts[task])[0]


def png(rng: np.random.Generator) -> bytes:
    """Return a random picture of four by four blocks."""
    blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((24, 20), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def frame(images: list[Any]) -> pd.DataFrame:
    """Return what a model takes."""
    return pd.DataFrame({"image": images})


def b64(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def make_features(task: str, images: list[bytes], backbone: Backbone) -> TaskFeatures:
    """Encode images, labelled in turn; the first of each class trains."""
    names = TASKS[task]
    rows = pd.DataFrame(
        [
            {
                "image": {"bytes": data, "path": None},
                "label": i % len(names),
                "domain": "toy",
                "class_name": names[i % len(names)],
                "split": "train" if i < len(names) else "test",
            }
            for i, data in enumerate(images)
        ]
    )
    config = FeaturesConfig(
        views=0, crop_scale=(1.0, 1.0), flip=False, batch_size=8, workers=0, seed=0
    )
    return encode_task(backbone, Manifest(task, "a drawing of a {}.", rows), "hash", config)


def make_release(
    role: str,
    rank: Any,
    bits: Any,
    folder: Path,
    features: dict[str, TaskFeatures],
    backbone: Backbone,
    config: BackboneConfig,
) -> Release:
    """Make, measure and save a prompt per task."""
    settings = PromptConfig(init="a drawing of a", rank=rank, bits=bits, n_ctx=2)
    prompts = {}
    for task, data in features.items():
        text = backbone.text_side(settings.init, data.class_names)
        prompt = Prompt(settings, text.init_MD(2), SEED)
        torch.manual_seed(SEED)
        for factor in prompt.factors.values():
            torch.nn.init.normal_(factor)
        stored = prompt.store()
        base, new = (
            measure_prompts(text, data, [stored], "test", classes, ["toy"])[0]
            for classes in split_base_new(range(len(data.class_names)))
        )
        scores = {"base": base, "new": new, "harmonic_mean": harmonic_mean(base, new)}
        prompts[task] = folder / f"{role}-{task}-{SEED}.prompt"
        save_prompt(
            prompts[task],
            stored,
            backbone.fingerprint,
            {
                "method": role,
                "task": task,
                "seed": SEED,
                "scores": scores,
                "size_bytes": stored.size_bytes,
                "settings": {"prompt": settings.model_dump(), "train": {}},
                "class_names": list(data.class_names),
                "backbone": config.model_dump(),
            },
        )
    return Release(role, "sweep-toy", SEED, prompts, config, backbone.fingerprint, "data")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Register both roles of a toy study in a new registry."""
    folder = tmp_path_factory.mktemp("registry")
    torch.manual_seed(0)
    save_clip(folder / "clip", build_clip(CONFIG, 16)[0], CONFIG)
    config = BackboneConfig(name=str(folder / "clip"), pretrained=None, device="cpu")
    backbone = load_backbone(config)
    rng = np.random.default_rng(0)
    images = {task: [png(rng) for _ in range(30)] for task in TASKS}
    features = {task: make_features(task, images[task], backbone) for task in TASKS}
    releases = {
        role: make_release(role, rank, bits, folder, features, backbone, config)
        for role, rank, bits in (("champion", "full", 16), ("compact", 1, 2))
    }
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        tracker = Tracker(TrackingConfig(uri=None, experiment="toy"), folder / "state")
        registered = {role: register(tracker, NAME, releases[role]) for role in ROLES}
        yield World(folder, backbone, features, images, tracker, releases, registered)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


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
    for role in ROLES:
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
                        "uri": f"models:/{NAME}@{role}",
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
    misses = inner.cached_embeddings.cache_info().misses
    second = model.predict(frame(world.images["tools"][:3]), params=params)
    pd.testing.assert_frame_equal(first, second)
    assert inner.cached_embeddings.cache_info().misses == misses
    assert {name for row in first["top_classes"] for name in row} == set(params["classes"])
    assert [sum(row) for row in first["top_probabilities"]] == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"task": "birds"}, r"task: found 'birds'; allowed are \['fruit', 'tools'\]"),
        ({"candidates": "old"}, "candidates: found 'old'"),
        ({"classes": ["a", "a"]}, "every name once"),
        ({"classes": ["a", " "]}, "1 to 500 characters"),
        ({"classes": ["x" * 501]}, "1 to 500 characters"),
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

    class Context:
        artifacts = {
            "model": str(tmp_path / "model.json"),
            "prompts": str(tmp_path / "prompts"),
            "backbone": str(tmp_path / "clip"),
        }

    with pytest.raises(ValueError, match="learned for a backbone with fingerprint"):
        served_model.PromptModel().load_context(Context())


def test_versions_carry_aliases_tags_and_no_pickle(world: World) -> None:
    """All that tells one version from another, and nothing that runs when it is read."""
    for role, done in world.registered.items():
        version = world.tracker.client.get_model_version(NAME, done.version)
        assert version.aliases == [role]
        about = [load_prompt(path)[1] for path in world.releases[role].prompts.values()]
        assert set(version.tags) >= {
            "rank",
            "bits",
            "n_ctx",
            "size_bytes",
            "file_bytes",
            "harmonic_mean",
            "base",
            "new",
            "data_hash",
            "backbone",
            "git_commit",
            "study",
            "seed",
            "content_hash",
        }
        assert version.tags["backbone"] == world.backbone.fingerprint
        files = world.releases[role].prompts.values()
        sizes = [packed_size(path.read_bytes()) for path in files]
        assert version.tags["size_bytes"] == str(max(size.payload_bytes for size in sizes))
        assert version.tags["file_bytes"] == str(max(path.stat().st_size for path in files))
        assert float(version.tags["base"]) == pytest.approx(
            sum(entry["scores"]["base"] for entry in about) / len(about), abs=1e-6
        )
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@{role}"))
        names = [path.name for path in folder.rglob("*")]
        assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth"))]
        code = {path.name for path in (folder / "code" / "pipeline").glob("*.py")}
        assert {"served_model.py", "backbone.py", "text_tower.py", "packed_prompt.py"} <= code
        assert not {"sweep.py", "search.py", "tracking.py", "registry.py"} & code
        run = world.tracker.client.get_run(version.run_id)
        parent = world.tracker.client.get_run(run.data.tags["mlflow.parentRunId"])
        assert parent.info.run_name == "sweep-toy"
        assert run.info.status == parent.info.status == "FINISHED"


def test_registering_again_makes_nothing_new_and_mends_the_alias(world: World) -> None:
    """Neither a version nor a run."""
    client, done = world.tracker.client, world.registered["champion"]
    client.delete_registered_model_alias(NAME, "champion")
    runs = len(client.search_runs([world.tracker.experiment_id]))
    again = register(world.tracker, NAME, world.releases["champion"])
    assert again == replace(done, is_new=False)
    assert len(client.search_model_versions(f"name = '{NAME}'")) == len(ROLES)
    assert len(client.search_runs([world.tracker.experiment_id])) == runs
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == done.version


def test_the_alias_follows_the_content_forward_and_back(world: World) -> None:
    """New content is a new version in the same run; old content is its old version again."""
    old = world.releases["champion"]
    changed = replace(old, data_hash="other data")
    runs = len(world.tracker.client.search_runs([world.tracker.experiment_id]))
    done = [register(world.tracker, "history", release) for release in (old, changed, old)]
    assert [(entry.version, entry.is_new) for entry in done] == [
        ("1", True), ("2", True), ("1", False)]  # fmt: skip
    entry = world.tracker.client.get_model_version_by_alias("history", "champion")
    assert str(entry.version) == "1"
    assert len(world.tracker.client.search_runs([world.tracker.experiment_id])) == runs


def test_a_prompt_of_another_seed_or_backbone_is_refused(world: World) -> None:
    """The file's own words count, not its name."""
    with pytest.raises(ValueError, match=r"found \('champion', 'fruit', 3\); allowed is .* 4\)"):
        register(world.tracker, NAME, replace(world.releases["champion"], seed=4))
    with pytest.raises(ValueError, match=r"fruit-3\S+: learned for a backbone .* found is odd"):
        register(world.tracker, NAME, replace(world.releases["champion"], fingerprint="odd"))


def test_the_client_predicts_by_alias(world: World, tmp_path: Path) -> None:
    """One line from files to class names."""
    path = tmp_path / "a.png"
    path.write_bytes(world.images["tools"][0])
    answer = predict(f"models:/{NAME}@compact", [path], task="tools")
    expected = world.load("compact").predict(frame([path.read_bytes()]), params={"task": "tools"})
    assert answer.loc[str(path)].to_dict() == expected.iloc[0].to_dict()


def test_over_http(world: World, tmp_path: Path) -> None:
    """`mlflow models serve`: the same answers, and 400 for every mistake."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        f"models:/{NAME}@champion",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-w",
        "1",
    ]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/ping", server, tmp_path / "server.log")
        path = tmp_path / "a.png"
        path.write_bytes(world.images["tools"][0])
        records = encode_images([path]).to_dict(orient="records")

        def call(records: Any, **params: Any) -> requests.Response:
            return requests.post(
                f"{address}/invocations",
                timeout=60,
                json={"dataframe_records": records, "params": params},
            )

        done = call(records, task="tools")
        expected = world.load().predict(frame([path.read_bytes()]), params={"task": "tools"})
        assert done.status_code == 200
        [answer], [wanted] = done.json()["predictions"], expected.to_dict(orient="records")
        assert answer["top_classes"] == wanted["top_classes"]
        assert answer["class_name"] == wanted["class_name"]
        for key in ("probability", "top_probabilities"):  # threads change the last digits
            assert answer[key] == pytest.approx(wanted[key], rel=1e-4)
        assert call(records, classes=["zebra", "ox"]).json()["predictions"][0]["class_name"] in (
            "zebra",
            "ox",
        )
        for records_, params, message in (
            ([{"image": str(path)}], {}, "paths and addresses are not opened"),
            ([{"image": records[0]["image"][:40]}], {}, "no readable image"),
            ([{"image": 5}], {}, ""),
            ([{"image": None}], {}, ""),
            ([{"picture": "x"}], {}, ""),
            (records, {"task": "birds"}, "allowed are ['fruit', 'tools']"),
            (records, {"classes": "zebra"}, "1D array"),
        ):
            refused = call(records_, **params)
            assert refused.status_code == 400, refused.text
            assert message in refused.json()["message"]
            assert "stack_trace" not in refused.json() or "Traceback" not in refused.text
        assert call(records).status_code == 200, "still serving"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
        log.close()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers."""
    for _ in range(240):
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(log.read_text())
