"""Encode every image once through the frozen backbone and cache the features of each task."""

from tqdm import tqdm

from pipeline import artifacts
from pipeline.backbone import load_backbone
from pipeline.encode import encode_task
from pipeline.errors import run_stage
from pipeline.manifest import load_manifest
from pipeline.params import load_params
from pipeline.provenance import file_hash


def main() -> None:
    """Run the stage."""
    params = load_params()
    backbone = load_backbone(params.backbone)
    manifests = {task: load_manifest(artifacts.manifest_path(task), False) for task in params.tasks}
    total = sum(m.n_encodings(params.features.views) for m in manifests.values())
    with tqdm(total=total, desc="features", unit="image", unit_scale=True) as bar:
        for task in params.tasks:
            path = artifacts.manifest_path(task)
            features = encode_task(
                backbone, load_manifest(path), file_hash(path), params.features, bar.update
            )
            artifacts.save_features(artifacts.features_path(task), features)


if __name__ == "__main__":
    run_stage(main)
