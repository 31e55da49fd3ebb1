"""Refit the winners with every seed on all base classes and test them."""

from dataclasses import asdict
from functools import partial
from statistics import mean

from tqdm import tqdm

from pipeline import artifacts
from pipeline.backbone import Backbone, load_backbone
from pipeline.errors import run_stage
from pipeline.evaluate import (
    EvaluationJob,
    Fit,
    TestRow,
    describe_data,
    refit,
    zero_shot_row,
)
from pipeline.packed_prompt import save_prompt
from pipeline.params import Params, apply_settings, load_params
from pipeline.provenance import git_commit, value_hash, versions
from pipeline.selection import TrialRecord
from pipeline.stored_prompt import StoredPrompt
from pipeline.sweep import cluster, map_parallel
from pipeline.tracking import Tracker
from pipeline.trial import check_splits


def load_job(params: Params, backbone: Backbone) -> EvaluationJob:
    """Load the features of all tasks and tokenize their class names.

    Raises:
        ValueError: if a cache file is damaged, or a task has no images to train on.
    """
    tasks = {t: artifacts.load_features(artifacts.features_path(t)) for t in params.tasks}
    check_splits(list(tasks.values()), ("train", "test"))
    names = [name for features in tasks.values() for name in features.class_names]
    text = backbone.text_side(params.prompt.init, names)
    device = "cuda" if params.sweep.gpus_per_trial else "cpu"
    return EvaluationJob(text, tasks, params.sweep.shots, params.evaluate.seeds, device)


def main() -> None:
    """Run the stage."""
    params = load_params()
    tracker = Tracker(params.tracking, artifacts.STATE)
    backbone = load_backbone(params.backbone.on_cpu())
    job = load_job(params, backbone)
    chosen = artifacts.load_json(artifacts.WINNERS)
    winners = {role: TrialRecord(**record) for role, record in chosen["winners"].items()}
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
        Fit(role, task, *apply_settings(params, record.settings))
        for role, record in winners.items()
        for task in params.tasks
    ]
    artifacts.clear_folder(artifacts.EVALUATION)
    resources = params.sweep.cpus_per_trial, params.sweep.gpus_per_trial
    with cluster(), tqdm(total=len(fits), desc="evaluate", unit="fit") as bar:
        for index, (measured, prompts) in map_parallel(refit, fits, job, *resources):
            rows += measured
            save_prompts(params, backbone, fits[index], measured, prompts, job)
            bar.update()
    order = {method: i for i, method in enumerate(["zero_shot", "coop", "compact", "champion"])}
    rows.sort(key=lambda row: (order[row.method], params.tasks.index(row.task), row.seed or 0))
    artifacts.save_json(
        artifacts.RESULTS,
        {
            "study": chosen["study"],
            "winners": chosen["winners"],
            "rows": [asdict(row) for row in rows],
            "data": {task: asdict(describe_data(f)) for task, f in job.tasks.items()},
            "provenance": {
                "git_commit": git_commit(),
                "backbone": backbone.fingerprint,
                "versions": versions(),
                "data_hash": value_hash([task.data_hash for task in job.tasks.values()]),
            },
        },
    )
    log_results(tracker, chosen["study"], rows)


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
