"""Latency and rate of a registered model: over HTTP, in Python, and over a folder.

    make bench-serving        # ten minutes on two quiet cores; writes bench/serving.json

A toy registry is made in a temporary folder, with the embedded towers and with ViT-B/16 of random
weights, and served by a real `mlflow models serve`. `http_p50_ms` and `http_p99_ms` are of calls
with one picture, one after the other, class embeddings known; `first_call_ms` is the first call
with a new list of 1,000 class names, `next_call_ms` the median of later ones with the same list.
Rates are images per second: over HTTP with 64 pictures a call, and from files on disk.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import requests
import torch

from bench.features import draw_jpeg
from bench.towers import vit_b_16
from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.folder import save_clip
from pipeline.core import paths
from pipeline.core.files import save_json
from pipeline.core.provenance import git_commit, versions
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.file import save_prompt
from pipeline.prompts.prompt import Prompt
from pipeline.registry.promotion import BENCHMARK
from pipeline.registry.registry import load_predictor, register
from pipeline.registry.release import Release
from pipeline.serving.batch import predict_files
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.tracker import Tracker

RESULTS = Path("bench/serving.json")
TASK, SEED = "bench", 1
AT_ONCE = 64


def make_release(config: BackboneConfig, backbone: Backbone, folder: Path) -> Release:
    """Return a rank-1, 1-bit prompt for 50 classes, not trained: that costs the same to serve."""
    settings = PromptConfig(init="a photo of a", rank=1, bits=1, n_ctx=4)
    names = open_clip.IMAGENET_CLASSNAMES[:50]
    text = backbone.text_side(settings.init, names)
    prompt = Prompt(settings, text.init_MD(settings.n_ctx), SEED)
    torch.manual_seed(SEED)
    for factor in prompt.factors.values():
        torch.nn.init.normal_(factor)
    stored = prompt.store()
    path = folder / "bench.prompt"
    about = {
        "method": "champion",
        "task": TASK,
        "seed": SEED,
        "scores": {"accuracy": 0.0},
        "size_bytes": stored.size_bytes,
        "settings": {"prompt": settings.model_dump(), "train": {}},
        "class_names": list(names),
    }
    save_prompt(path, stored, backbone.fingerprint, about)
    return Release(
        method="champion",
        aliases=("champion",),
        study="bench",
        trial=0,
        score=0.0,
        seed=SEED,
        prompts={TASK: path},
        backbone=config,
        towers=Path(config.name),
        fingerprint=backbone.fingerprint,
        benchmark=dict.fromkeys(BENCHMARK, "bench"),
    )


@contextmanager
def served(model_uri: str, folder: Path, threads: int) -> Iterator[str]:
    """Run `mlflow models serve` on loopback and give its address.

    Raises:
        RuntimeError: if it ends before it answers.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "-p", str(port)]
    command += ["-h", "127.0.0.1", "-w", "1", "--env-manager", "local", "--timeout", "600"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(threads)}
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, env=env, cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while not answers(f"http://127.0.0.1:{port}/ping"):
                if server.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def answers(address: str) -> bool:
    """Return whether a server is up."""
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def http_figures(address: str, pictures: list[bytes], calls: int) -> dict[str, float]:
    """Time calls, one after the other, over one connection."""
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    session = requests.Session()

    def seconds(images: list[str], **params: Any) -> float:
        body = {"dataframe_records": [{"image": text} for text in images], "params": params}
        start = time.perf_counter()
        session.post(address, json=body, timeout=600).raise_for_status()
        return time.perf_counter() - start

    for _ in range(5):
        seconds(texts[:1])
    times = [seconds([texts[i % len(texts)]]) for i in range(calls)]
    many = (texts * (AT_ONCE // len(texts) + 1))[:AT_ONCE]
    batch_s = statistics.median(seconds(many) for _ in range(5))
    names = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))
    first_s = seconds(texts[:1], classes=names)
    next_s = statistics.median(seconds(texts[:1], classes=names) for _ in range(10))
    return {
        "http_p50_ms": 1000 * float(np.percentile(times, 50)),
        "http_p99_ms": 1000 * float(np.percentile(times, 99)),
        "http_calls": calls,
        "http_images_per_s": AT_ONCE / batch_s,
        "classes": len(names),
        "first_call_ms": 1000 * first_s,
        "next_call_ms": 1000 * next_s,
    }


def folder_rate(model_uri: str, pictures: list[bytes], count: int, folder: Path) -> float:
    """Return images per second of `loqua predict`, from files to rows."""
    predictor = load_predictor(model_uri)
    task, names = predictor.choose()
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(pictures[i % len(pictures)])
    list(predict_files(predictor, paths[:AT_ONCE], task, names))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert sum(map(len, predict_files(predictor, paths, task, names))) == count
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)


def measure(config: BackboneConfig, folder: Path, calls: int, threads: int) -> dict[str, float]:
    """Register, serve and time one backbone."""
    folder.mkdir(exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = Tracker(TrackingConfig(uri=None, experiment="bench"), folder)
    release = make_release(config, load_backbone(config), folder)
    model_uri = f"models:/bench/{register(tracker, 'bench', release).version}"
    pictures = [draw_jpeg(seed) for seed in range(16)]
    with served(model_uri, folder, threads) as address:
        found = http_figures(address, pictures, calls)
    rate = folder_rate(model_uri, pictures, 4 * AT_ONCE, folder)
    return {**found, "folder_images_per_s": rate, "jpeg_bytes": statistics.mean(map(len, pictures))}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["embedded", "vitb16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"threads": options.threads, "git_commit": git_commit()}
    results |= {"cores": os.cpu_count() or 1, "load_average": os.getloadavg()[0]}
    results |= {f"version_{name}": found for name, found in versions().items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = {"embedded": str(paths.BACKBONE.resolve()), "vitb16": str(folder / "vit")}
        if options.only != "embedded":
            model_config = open_clip.get_model_config("ViT-B-16")
            assert model_config is not None
            save_clip(folder / "vit", vit_b_16()[0], model_config)
        for case, name in names.items():
            if options.only in (None, case):
                config = BackboneConfig(name=name, pretrained=None, device="cpu")
                found = measure(config, folder / case, options.calls, options.threads)
                results |= {f"{key}_{case}": value for key, value in found.items()}
    print(json.dumps(results, indent=1))
    if options.only is None:
        save_json(RESULTS, results)
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
