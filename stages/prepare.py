"""Write the manifest of a task: images, labels, class names, domains, splits.

Usage: python -m stages.prepare TASK
"""

import sys

from pipeline.core import paths
from pipeline.core.files import save_record, write_atomic
from pipeline.core.stage import run_stage
from pipeline.data.manifest import save_manifest
from pipeline.data.sources import build_source
from pipeline.params import load_params


def main() -> None:
    """Run the stage."""
    params = load_params()
    task = params.task(sys.argv[1:])
    manifest = build_source(params.prepare, task)
    write_atomic(
        paths.manifest_path(task),
        lambda path: save_manifest(path, manifest, params.prepare.root),
    )
    save_record(paths.summary_path(task), manifest.summary)
    images = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{task}: {len(manifest.class_names)} classes, {images}; {paths.summary_path(task)}")
    for line in manifest.remarks:
        print(f"{task}: {line}")


if __name__ == "__main__":
    run_stage(main)
