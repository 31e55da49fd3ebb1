"""Features from JPEG files: how fast beside the bare tower, and memory that does not grow.

    make bench-features       # half an hour on two quiet cores; writes bench/features.json

`features_vs_forward` is the rate of `encode_task` on ViT-B/16, from files to features, over the
rate of the tower's forward pass alone, in turn, on the same threads. Peaks are of fresh processes
with a tiny tower, shards included.

    python -m bench.features memory 2000      # one of those processes
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image

from bench.timing import in_turn
from bench.towers import vit_b_16
from pipeline.clip.backbone import Backbone, wrap_model
from pipeline.clip.folder import build_clip
from pipeline.core.files import save_json
from pipeline.core.provenance import git_commit, versions
from pipeline.data.manifest import Manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.extract import encode_task
from pipeline.features.loader import Pictures
from pipeline.params import load_params

RESULTS = Path("bench/features.json")
SIZE = (500, 375)
"""Width and height of a typical picture of ImageNet."""
DISTINCT = 200
"""Pictures that are drawn; further files are links to them."""
COUNTS = (2_000, 20_000)
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def draw_jpeg(seed: int) -> bytes:
    """Return a picture with detail at all scales, like a photograph's, as JPEG of about 110 KB."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    picture_HW3 = np.full((height, width, 3), 128.0)
    for step in (256, 64, 16, 4, 1):
        grid = rng.normal(0, 1, (height // step + 2, width // step + 2, 3))
        bands = [Image.fromarray(grid[..., band].astype(np.float32)) for band in range(3)]
        smooth = [np.asarray(band.resize(SIZE, Image.Resampling.BICUBIC)) for band in bands]
        picture_HW3 += 9 * step**0.33 * np.stack(smooth, axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_files(folder: Path, count: int) -> Manifest:
    """Write JPEG files and return a task of them, all in the test split."""
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if index < DISTINCT:
            path.write_bytes(draw_jpeg(index))
        else:
            os.link(paths[index % DISTINCT], path)
    rows = pd.DataFrame({"image": [{"bytes": None, "path": str(path)} for path in paths]})
    rows = rows.assign(label=np.arange(count) % 3, domain="photo", split="test")
    return Manifest("bench", "a photo of a {}.", rows.assign(class_name=rows["label"].astype(str)))


def plain_config() -> FeaturesConfig:
    """Return the project's own settings, without crops."""
    return load_params().features.model_copy(update={"views": 0})


def rates(n_images: int, repeats: int, device: str) -> dict[str, float]:
    """Time the whole way and the bare forward pass in turn; also one core's decoding."""
    model, _ = vit_b_16()
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    backbone = wrap_model(model.to(device), tokenizer, torch.device(device))
    config = plain_config()
    pictures_B3HW = torch.randn(config.batch_size, 3, 224, 224)
    n_batches = max(1, n_images // config.batch_size)
    n_images = n_batches * config.batch_size

    def forward() -> None:
        for _ in range(n_batches):
            backbone.encode_images(pictures_B3HW)

    with tempfile.TemporaryDirectory() as folder:
        manifest = write_files(Path(folder), n_images)
        size_bytes = sum(Path(i["path"]).stat().st_size for i in manifest.rows["image"]) / n_images
        backbone.encode_images(pictures_B3HW)
        seconds = in_turn(
            {"forward": forward, "features": lambda: encode_task(backbone, manifest, "", config)},
            repeats,
            warm=False,
        )
        decode_s = decode_seconds(backbone, manifest, config)
    return {
        "features_vs_forward": seconds["forward"] / seconds["features"],
        "features_images_per_s": n_images / seconds["features"],
        "forward_images_per_s": n_images / seconds["forward"],
        "decode_images_per_s_per_core": 1 / decode_s,
        "jpeg_bytes": size_bytes,
        "images": n_images,
        "batch_size": config.batch_size,
        "workers": config.n_workers,
    }


def decode_seconds(backbone: Backbone, manifest: Manifest, config: FeaturesConfig) -> float:
    """Return the CPU time of a picture from file to tensor."""
    pictures = Pictures(backbone, manifest, config)
    count = min(100, len(manifest.rows))
    start = time.process_time()
    for row in range(count):
        assert isinstance(pictures[row, 0], torch.Tensor)
    return (time.process_time() - start) / count


def measure_memory(count: int) -> None:
    """Encode files with the tiny tower and print peaks, in bytes, as JSON."""
    torch.manual_seed(0)
    model, tokenizer = build_clip(TINY, 8)
    backbone = wrap_model(model.eval().requires_grad_(False), tokenizer, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pictures").mkdir()
        manifest = write_files(Path(folder) / "pictures", count)
        encode_task(backbone, manifest, "", plain_config(), folder=Path(folder) / "shards")
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))  # of this program alone
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the largest that has ended
    print(json.dumps({"peak_bytes": 1024 * int(peak.split()[1]), "worker_bytes": 1024 * worker}))


def memory() -> dict[str, float]:
    """Return the peaks of fresh processes, by number of images."""
    found: dict[str, float] = {}
    for count in COUNTS:
        command = [sys.executable, "-m", "bench.features", "memory", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks = json.loads(done.stdout.splitlines()[-1])
        found |= {f"{name}_{count}_images": value for name, value in peaks.items()}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["all", "rates", "memory"], default="all")
    parser.add_argument("count", nargs="?", type=int, help="of images, for one memory process")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "memory" and options.count:
        measure_memory(options.count)
        return
    results: dict[str, float | str] = {"threads": options.threads, "device": options.device}
    results |= {"git_commit": git_commit(), "cores": os.cpu_count() or 1}
    results |= {f"version_{name}": found for name, found in versions().items()}
    if options.part in ("all", "rates"):
        results |= rates(options.images, options.repeats, options.device)
    if options.part in ("all", "memory"):
        results |= memory()
    print(json.dumps(results, indent=1))
    if options.part == "all":
        save_json(RESULTS, results)
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
