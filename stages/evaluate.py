"""Refit the winners with every seed on all base classes and test them."""

from dataclasses import asdict
from functools import partial
from statistics import mean
from typing import Any

from tqdm import tqdm

from pipeline import artifacts
from pipeline.backbone import Backbone, load_backbone
from pipeline.errors import run_stage
from pipeline.evaluate import ZERO_SHOT, EvaluationJob, Fit, TestRow, refit, zero_shot_row
from pipeline.manifest import load_manifest
from pipeline.packed_prompt import save_prompt
from pipeline.params import Params, apply_settings, load_params
from pipeline.pictures import with_pictures
from pipeline.prompts import PromptConfig
from pipeline.provenance import git_commit, value_hash, versions
from pipeline.selection import TrialRecord
from pipeline.stored_prompt import StoredPrompt
from pipeline.sweep import cluster, map_parallel
from pipeline.tracking import Tracker
from pipeline.train import TrainConfig


def load_job(params: Params, backbone: Backbone, depth: int) -> EvaluationJob:
    """Load the features of all tasks, with pictures if prompts are deep, and tokenize names."""
    tasks = {t: artifacts.load_features(artifacts.features_path(t)) for t in params.tasks}
    names = [name for features in tasks.values() for name in features.class_names]
    text = backbone.text_side(params.prompt.init, names, with_vision=depth > 0)
    text.check_depth(depth)
    if depth:
        manifests = {task: load_manifest(artifacts.manifest_path(task)) for task in tasks}
        tasks = {
            task: with_pictures(features, backbone, manifests[task], params.features)
            for task, features in tasks.items()
        }
    device = "cuda" if params.sweep.gpus_per_trial else "cpu"
    return EvaluationJob(text, tasks, params.sweep.shots, params.evaluate.seeds, device)


def main() -> None:
    """Run the stage."""
    params = load_params()
    tracker = Tracker(params.tracking, artifacts.STATE)
    backbone = load_backbone(params.backbone.on_cpu())
    chosen = artifacts.load_json(artifacts.WINNERS)
    configs = configurations(params, chosen["winners"])
    job = load_job(params, backbone, max(prompt.depth for prompt, _ in configs.values()))
    rows = [
        zero_shot_row(
            features,
            backbone.encode_captions(
                [features.template.format(name) for name in features.class_names]
            ).cpu(),
        )
        for features in job.tasks.values()
    ]
    fits = [
        Fit(method, task, *config) for method, config in configs.items() for task in params.tasks
    ]
    artifacts.clear_folder(artifacts.EVALUATION)
    resources = params.sweep.cpus_per_trial, params.sweep.gpus_per_trial
    with cluster(), tqdm(total=len(fits), desc="evaluate", unit="fit") as bar:
        for index, (measured, prompts) in map_parallel(refit, fits, job, *resources):
            rows += measured
            save_prompts(params, backbone, fits[index], measured, prompts, job)
            bar.update()
    order = [ZERO_SHOT, *sorted(configs)]
    rows.sort(
        key=lambda row: (order.index(row.method), params.tasks.index(row.task), row.seed or 0)
    )
    artifacts.save_json(
        artifacts.RESULTS,
        {
            "study": chosen["study"],
            "winners": chosen["winners"],
            "rows": [asdict(row) for row in rows],
            "provenance": {
                "git_commit": git_commit(),
                "backbone": backbone.fingerprint,
                "versions": versions(),
                "data_hash": value_hash([task.data_hash for task in job.tasks.values()]),
            },
        },
    )
    log_results(tracker, chosen["study"], rows)


def configurations(
    params: Params, winners: dict[str, Any]
) -> dict[str, tuple[PromptConfig, TrainConfig]]:
    """Return what is refit: `evaluate.methods` as params.yaml has them, and the sweep's winners."""
    named = {name: {"method": name} for name in params.evaluate.methods}
    chosen = {role: TrialRecord(**record).settings for role, record in winners.items()}
    return {name: apply_settings(params, found) for name, found in {**named, **chosen}.items()}


def log_results(tracker: Tracker, study: str, rows: list[TestRow]) -> None:
    """Record each method's test accuracy, mean over tasks and seeds, below the study's run."""
    names = ("base", "new", "harmonic_mean", "held_out_base", "held_out_new", "size_bytes")
    parent = tracker.find_run(study) or ""
    with tracker.run(f"{study}/evaluate", "evaluate", {"study": study}, parent) as run_id:
        for method in dict.fromkeys(row.method for row in rows):
            values = [asdict(row) for row in rows if row.method == method]
            means = {
                name: mean(found)
                for name in names
                if (found := [value[name] for value in values if value[name] is not None])
            }
            tracker.log(run_id, metrics=[(f"{method}/{k}", v, 0) for k, v in means.items()])


def save_prompts(
    params: Params,
    backbone: Backbone,
    fit: Fit,
    rows: list[TestRow],
    prompts: list[StoredPrompt],
    job: EvaluationJob,
) -> None:
    """Keep every stored prompt with what it needs to be used and what it reached."""
    for row, prompt in zip(rows, prompts, strict=True):
        about = {
            "method": fit.method,
            "task": fit.task,
            "seed": row.seed,
            "result": asdict(row),
            "settings": {"prompt": fit.prompt.model_dump(), "train": fit.train.model_dump()},
            "class_names": list(job.tasks[fit.task].class_names),
            "backbone": params.backbone.model_dump(),
        }
        path = artifacts.prompt_path(fit.method, fit.task, row.seed or 0)
        save = partial(save_prompt, prompt=prompt, fingerprint=backbone.fingerprint, about=about)
        artifacts.write_atomic(path, save)


if __name__ == "__main__":
    run_stage(main)
