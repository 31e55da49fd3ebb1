"""Encode every image of a task once through the frozen backbone and cache the features.

Usage: python -m stages.features TASK
"""

import shutil
import sys
from itertools import chain

from tqdm import tqdm

from pipeline.clip.images import load_image_encoder
from pipeline.core import paths
from pipeline.core.hashes import file_hash
from pipeline.core.stage import run_stage
from pipeline.data.manifest import load_manifest
from pipeline.data.sampling import Draws
from pipeline.features.extract import encode_task
from pipeline.features.files import save_features
from pipeline.params import load_params


def main() -> None:
    """Run the stage."""
    params = load_params()
    task = params.task(sys.argv[1:])
    path = paths.manifest_path(task)
    manifest = load_manifest(path, root=params.prepare.root)
    encoder = load_image_encoder(params.backbone)
    shots = {params.sweep.shots, *chain(*(p.shots or [] for p in params.protocols.values()))}
    draws = Draws(
        seeds=sorted({*params.sweep.seeds, *params.evaluate.seeds}),
        shots=sorted(shots),
        validated=[(seed, params.sweep.shots) for seed in params.sweep.seeds],
    )
    total = manifest.n_encodings(params.features.views, draws)
    shards = paths.shards_path(task)
    with tqdm(total=total, desc=task, unit="image", unit_scale=True) as bar:
        features = encode_task(
            encoder, manifest, file_hash(path), params.features, bar.update, draws, shards
        )
    save_features(paths.features_path(task), features)
    shutil.rmtree(shards, ignore_errors=True)
    if features.skipped:
        print(f"{task}: {len(features.skipped)} image(s) cannot be read and are left out:")
        print("\n".join(features.skipped))


if __name__ == "__main__":
    run_stage(main)
