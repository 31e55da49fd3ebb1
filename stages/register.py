"""Register the winners' prompts as MLflow models, with the aliases `champion` and `compact`.

A version holds one prompt per task: that of the first seed of `evaluate.seeds`, which is fixed
before any test image is seen; the best seed on test images would not be.
"""

from rich.console import Console

from pipeline import artifacts
from pipeline.backbone import load_backbone
from pipeline.errors import run_stage
from pipeline.params import load_params
from pipeline.protocols import trained_tasks
from pipeline.registry import Registered, register
from pipeline.release import ROLES, Release
from pipeline.tracking import Tracker

console = Console(highlight=False)


def main() -> None:
    """Run the stage."""
    params = load_params()
    results = artifacts.load_json(artifacts.RESULTS)
    fingerprint = load_backbone(params.backbone).fingerprint
    tracker = Tracker(params.tracking, artifacts.STATE)
    name, seed = params.register_.name, params.evaluate.seeds[0]
    trained = trained_tasks(params.protocols[params.protocol], params.tasks)
    models = {}
    for role in ROLES:
        release = Release(
            role=role,
            study=results["study"],
            seed=seed,
            prompts={task: artifacts.prompt_path(role, task, seed) for task in trained},
            backbone=params.backbone,
            fingerprint=fingerprint,
            data_hash=results["provenance"]["data_hash"],
        )
        done = register(tracker, name, release)
        console.print(line(name, done))
        models[role] = {
            "version": done.version,
            "alias": role,
            "content_hash": done.content_hash,
            "tags": done.tags,
        }
    artifacts.save_json(
        artifacts.REGISTERED,
        {"name": name, "study": results["study"], "seed": seed, "models": models},
    )


def line(name: str, done: Registered) -> str:
    """Describe a version in one line."""
    name_of = {"harmonic_mean": "HM", "accuracy": "accuracy"}
    score = ", ".join(
        f"{name_of[key]} {100 * float(value):.1f}"
        for key, value in done.tags.items()
        if key in name_of
    )
    return (
        f"models:/{name}@{done.role}: version {done.version}{' (new)' if done.is_new else ''}, "
        f"{done.tags['size_bytes']} B, {score} with seed {done.tags['seed']}"
    )


if __name__ == "__main__":
    run_stage(main)
