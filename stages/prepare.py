"""Write the manifest of every task: images, labels, class names, domains, splits."""

from tqdm import tqdm

from pipeline import artifacts
from pipeline.datasets.emoji import build_manifest, read_tasks
from pipeline.errors import run_stage
from pipeline.manifest import save_manifest
from pipeline.params import load_params


def main() -> None:
    """Run the stage."""
    config = load_params().prepare.emoji
    tasks = read_tasks(artifacts.DRAWINGS, config)
    for task, drawings in tqdm(tasks.items(), desc="prepare", unit="task"):
        manifest = build_manifest(task, drawings, config)
        artifacts.write_atomic(
            artifacts.manifest_path(task), lambda path, m=manifest: save_manifest(path, m)
        )


if __name__ == "__main__":
    run_stage(main)
