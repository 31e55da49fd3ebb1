"""Register every Pareto winner as a version of one MLflow model, and say who is champion.

A version holds one prompt per task: that of the first seed of `evaluate.seeds`, which is fixed
before any test image is seen; the best seed on test images would not be.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.folder import copy_towers
from pipeline.core import paths
from pipeline.core.files import load_record, save_json
from pipeline.core.stage import run_stage
from pipeline.params import Params, load_params
from pipeline.registry.promotion import ALIASES
from pipeline.registry.registry import Promotion, Registered, promote, register
from pipeline.registry.release import Release
from pipeline.registry.version_card import licenses
from pipeline.tracking.tracker import Tracker
from pipeline.training.protocols import trained_tasks
from pipeline.training.results import Results

console = Console(highlight=False, soft_wrap=True)


def is_embedded(params: Params) -> bool:
    """Return whether the backbone is the one that ships with the project."""
    return Path(params.backbone.name).resolve() == paths.BACKBONE.resolve()


def towers_to_copy(params: Params, backbone: Backbone, folder: Path) -> Path | None:
    """Return a folder with the towers if they are to travel, or None where a name will do."""
    if not (params.register_.with_towers or is_embedded(params)):
        return None
    return copy_towers(params.backbone, backbone, folder)


def releases(
    params: Params, results: Results, fingerprint: str, towers: Path | None
) -> list[Release]:
    """Return what becomes a version, smallest prompt first."""
    seed = params.evaluate.seeds[0]
    trained = trained_tasks(params.tested_by, params.tasks)
    measured = [*results.measurements, *results.pareto.measurements]
    shots = max(one.shots for one in measured)
    benchmark = {
        "data_hash": results.provenance.data_hash,
        "protocol": results.protocol,
        "tasks": ", ".join(params.sweep.tasks),
        "shots": str(params.sweep.shots),
        "selection_seeds": str(params.sweep.seeds),
    }
    return [
        Release(
            method=member.method,
            aliases=tuple(role for role in member.roles if role in ALIASES),
            study=results.study,
            trial=member.trial,
            score=member.score,
            seed=seed,
            prompts={t: paths.prompt_path(member.method, t, seed) for t in trained},
            backbone=params.backbone,
            towers=towers,
            fingerprint=fingerprint,
            benchmark=benchmark,
            measured=tuple(
                one for one in measured if one.method == member.method and one.shots == shots
            ),
        )
        for member in results.pareto.members
    ]


def main() -> None:
    """Run the stage."""
    params = load_params()
    results = load_record(paths.RESULTS, Results)
    backbone = load_backbone(params.backbone.on_cpu())
    tracker = Tracker(params.tracking, paths.STATE)
    name = params.register_.name
    told = licenses(params.prepare.source, is_embedded(params), params.backbone.name)
    done: list[tuple[Release, Registered]] = []
    with tempfile.TemporaryDirectory() as folder:
        towers = towers_to_copy(params, backbone, Path(folder) / "towers")
        for release in releases(params, results, backbone.fingerprint, towers):
            done.append((release, register(tracker, name, release, told)))
            console.print(line(name, *done[-1]))
    candidates = {alias: own for release, own in done for alias in release.aliases}
    promotions = promote(tracker, name, candidates, params.register_.promote)
    for promotion in promotions:
        console.print(promotion_line(name, promotion))
    save_json(
        paths.REGISTERED,
        {
            "name": name,
            "study": results.study,
            "seed": params.evaluate.seeds[0],
            "versions": [
                {
                    "version": own.version,
                    "method": own.method,
                    "trial": release.trial,
                    "candidate_for": list(release.aliases),
                    "content_hash": own.content_hash,
                    "tags": {k: v for k, v in own.tags.items() if not k.startswith("prompt.")},
                }
                for release, own in done
            ],
            "aliases": [asdict(promotion) for promotion in promotions],
        },
    )


def line(name: str, release: Release, done: Registered) -> str:
    """Describe a version in one line."""
    names = {"harmonic_mean": "HM", "accuracy": "accuracy"}
    score = ", ".join(
        f"{names[key]} {100 * float(value):.1f}" for key, value in done.tags.items() if key in names
    )
    return (
        f"models:/{name}/{done.version}{' (new)' if done.is_new else ''}: {done.tags['role']}, "
        f"trial {release.trial}, {done.tags['size_bytes']} B, validation "
        f"{100 * release.score:.1f}, test {score} with seed {done.tags['seed']}"
    )


def promotion_line(name: str, promotion: Promotion) -> str:
    """Say who holds an alias, and why another was not promoted."""
    if promotion.refused is None:
        return f"models:/{name}@{promotion.alias}: version {promotion.holder}"
    held = f"stays with version {promotion.holder}" if promotion.holder else "is given to nobody"
    return (
        f"models:/{name}@{promotion.alias} {held}; version {promotion.candidate} was not "
        f"promoted: {promotion.refused}. `register.promote: always` promotes it; another "
        "`register.name` begins a model of its own"
    )


if __name__ == "__main__":
    run_stage(main)
