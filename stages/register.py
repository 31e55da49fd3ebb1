"""Register every Pareto winner as a version of one MLflow model, and promote the champion.

A version holds one prompt per task: that of the first seed of `evaluate.seeds`, which is fixed
before any test image is seen; the best seed on test images would not be.
"""

import tempfile
from pathlib import Path

from rich.console import Console

from pipeline.clip.backbone import load_backbone
from pipeline.clip.folder import copy_towers
from pipeline.core import paths
from pipeline.core.files import load_record, save_record
from pipeline.core.stage import run_stage
from pipeline.params import load_params
from pipeline.registry.registry import Promotion, Registered, Registration, promote, register
from pipeline.registry.release import make_releases
from pipeline.registry.version_card import licenses
from pipeline.tracking.tracker import Tracker
from pipeline.training.protocols import trained_tasks
from pipeline.training.results import Results

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the stage."""
    params = load_params()
    results = load_record(paths.RESULTS, Results)
    config, name, seed = params.backbone, params.register_.name, params.evaluate.seeds[0]
    backbone = load_backbone(config.on_cpu())
    tracker = Tracker(params.tracking, paths.STATE)
    is_embedded = Path(config.name).resolve() == paths.BACKBONE.resolve()
    lines = licenses(params.prepare.source, is_embedded, config.name)
    benchmark = {
        "tasks": ", ".join(params.sweep.tasks),
        "shots": str(params.sweep.shots),
        "selection_seeds": str(params.sweep.seeds),
    }
    tasks = trained_tasks(params.tested_by, params.tasks)
    versions = []
    with tempfile.TemporaryDirectory() as folder:
        travel = is_embedded or params.register_.with_towers
        towers = copy_towers(config, backbone, Path(folder) / "towers") if travel else None
        for release in make_releases(
            results, tasks, seed, config, backbone.fingerprint, towers, benchmark
        ):
            version, is_new = register(tracker, name, release, lines)
            versions.append(version)
            console.print(version_line(name, version, is_new))
    aliases = promote(tracker, name, versions, params.register_.promote)
    for promotion in aliases:
        console.print(promotion_line(name, promotion))
    save_record(paths.REGISTERED, Registration(name, results.study, seed, versions, aliases))


def version_line(name: str, version: Registered, is_new: bool) -> str:
    """Describe a version in one line."""
    tags, names = version.tags, {"harmonic_mean": "HM", "accuracy": "accuracy"}
    scores = [f"{names[key]} {100 * float(tags[key]):.1f}" for key in names if key in tags]
    return (
        f"models:/{name}/{version.version}{' (new)' if is_new else ''}: {tags['role']}, trial "
        f"{version.trial}, {tags['size_bytes']} B, validation "
        f"{100 * float(tags['validation_score']):.1f}, test {', '.join(scores)} with seed "
        f"{tags['seed']}"
    )


def promotion_line(name: str, promotion: Promotion) -> str:
    """Say which version holds an alias, and why another was not promoted."""
    alias, holder = f"models:/{name}@{promotion.alias}", promotion.holder
    if promotion.refused is None:
        return f"{alias}: version {holder}"
    held = f"stays with version {holder}" if holder else "stays free"
    return (
        f"{alias} {held}; version {promotion.candidate} was not promoted: {promotion.refused}. "
        "`register.promote: always` promotes it; another `register.name` starts a new model"
    )


if __name__ == "__main__":
    run_stage(main)
