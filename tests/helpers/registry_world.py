"""A toy backbone, tasks with measured prompts, their registered versions, and a server of one."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from PIL import Image

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.folder import build_clip, save_clip
from pipeline.data.classes import split_base_new
from pipeline.data.manifest import Manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.extract import encode_task
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.file import load_prompt, save_prompt
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.registry.registry import Promotion, Registered, promote, register
from pipeline.registry.release import Release
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.tracker import Tracker
from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import Measurement
from pipeline.training.task_run import measure_prompts

TASKS = {"fruit": ["apple", "pear", "plum", "fig"], "tools": ["hammer", "hand_saw", "drill"]}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAME, SEED, STUDY = "toy", 3, "sweep-toy"
ROLES = ("champion", "compact")
METHODS = (*ROLES, "pareto-2")
BENCHMARK = {
    "data_hash": "data",
    "protocol": "base_to_new",
    "tasks": "fruit, tools",
    "shots": "16",
    "selection_seeds": "[1]",
}
LICENSES = ["code: Apache-2.0"]


@dataclass(frozen=True)
class World:
    """A toy backbone, tasks with measured prompts, and a Pareto front of three registered.

    The towers travel with all but `pareto-2`, which names their folder.
    """

    folder: Path
    uri: str
    backbone: Backbone
    features: dict[str, TaskFeatures]
    images: dict[str, list[bytes]]
    tracker: Tracker
    releases: dict[str, Release]
    registered: dict[str, Registered]
    promotions: list[Promotion]

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


def measure(
    method: str, task: str, seed: int, scores: dict[str, float], size_bytes: int
) -> list[Measurement]:
    """Return scores as an evaluation tells them."""
    return [
        Measurement(
            method, task, 16, seed, task, side, "shots", scores[side], size_bytes, size_bytes, 1.0
        )
        for side in ("base", "new")
    ]


def make_release(
    method: str,
    rank: Any,
    bits: Any,
    folder: Path,
    features: dict[str, TaskFeatures],
    backbone: Backbone,
    config: BackboneConfig,
) -> Release:
    """Make, measure and save a prompt per task."""
    settings = PromptConfig(init="a drawing of a", rank=rank, bits=bits, n_ctx=2)
    prompts, measured = {}, []
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
        measured += measure(method, task, SEED, scores, stored.size_bytes)
        if method in ROLES:  # another seed was tested, too
            measured += measure(method, task, SEED + 1, {**scores, "base": 0.0}, stored.size_bytes)
        prompts[task] = folder / f"{method}-{task}-{SEED}.prompt"
        about = {
            "method": method,
            "task": task,
            "seed": SEED,
            "scores": scores,
            "git_commit": "c" * 40,
            "code": "d" * 64,
            "size_bytes": stored.size_bytes,
            "settings": {"prompt": settings.model_dump(), "train": {}},
            "class_names": list(data.class_names),
            "backbone": config.model_dump(),
        }
        save_prompt(prompts[task], stored, backbone.fingerprint, about)
    number = METHODS.index(method)
    return Release(
        method=method,
        aliases=(method,) if method in ROLES else (),
        study=STUDY,
        trial=number,
        score=0.7 - 0.01 * number,
        seed=SEED,
        prompts=prompts,
        backbone=config,
        towers=Path(config.name) if method in ROLES else None,
        fingerprint=backbone.fingerprint,
        benchmark=BENCHMARK,
        measured=tuple(measured),
    )


@contextmanager
def tracked_at(uri: str) -> Iterator[None]:
    """Let MLflow use a store, in this process and its children, and no pickle."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        yield
        mlflow.set_tracking_uri(before[0])  # which sets the variable, too
        mlflow.set_registry_uri(before[1])


def build_world(folder: Path) -> World:
    """Register a toy study's front in a new registry; the store in force is its own."""
    torch.manual_seed(0)
    save_clip(folder / "clip", build_clip(CONFIG, 16)[0], CONFIG)
    config = BackboneConfig(name=str(folder / "clip"), pretrained=None, device="cpu")
    backbone = load_backbone(config)
    rng = np.random.default_rng(0)
    images = {task: [png(rng) for _ in range(30)] for task in TASKS}
    features = {task: make_features(task, images[task], backbone) for task in TASKS}
    kinds = zip(METHODS, (("full", 16), (1, 2), (2, 4)), strict=True)
    releases = {
        method: make_release(method, rank, bits, folder, features, backbone, config)
        for method, (rank, bits) in kinds
    }
    tracker = Tracker(TrackingConfig(uri=None, experiment="toy"), folder / "state")
    for key in (STUDY, f"{STUDY}/0", f"{STUDY}/10", f"{STUDY}/base_to_new"):
        tracker.close_run(tracker.open_run(key, key, {}))
    registered = {
        method: register(tracker, NAME, release, LICENSES) for method, release in releases.items()
    }
    candidates = {role: registered[role] for role in ROLES}
    promotions = promote(tracker, NAME, candidates, "better")
    return World(
        folder, tracker.uri, backbone, features, images, tracker, releases, registered, promotions
    )


@contextmanager
def served(model_uri: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `mlflow models serve` and give its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)  # the model brings its own code
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, env=env, cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", server, log)
            yield f"http://127.0.0.1:{port}", server
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


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
