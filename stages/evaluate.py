"""Refit the Pareto winners on all base classes and test them; those with a role with every seed."""

from dataclasses import asdict, replace
from functools import partial
from statistics import mean
from typing import Any

from tqdm import tqdm

from pipeline.clip.backbone import Backbone
from pipeline.core import paths
from pipeline.core.errors import run_stage
from pipeline.core.files import clear_folder, load_json, save_json, write_atomic
from pipeline.core.provenance import git_commit, versions
from pipeline.params import Params, load_params
from pipeline.prompts.file import save_prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.sweep.ray_cluster import check_resources, cluster, map_parallel
from pipeline.tracking.tracker import Tracker
from pipeline.training.inputs import load_inputs
from pipeline.training.metrics import harmonic_mean
from pipeline.training.plan import front, plan_fits
from pipeline.training.protocols import trained_tasks
from pipeline.training.records import Measurement, TrialRecord
from pipeline.training.refit import (
    ZERO_SHOT,
    EvaluationJob,
    Fit,
    describe_data,
    measure_zero_shot,
    refit,
)
from pipeline.training.settings import Configuration
from pipeline.training.trial import check_splits


def main() -> None:
    """Run the stage."""
    params = load_params()
    tracker = Tracker(params.tracking, paths.STATE)
    chosen = load_json(paths.WINNERS)
    configs = configurations(params, chosen)
    members = front(chosen, params.evaluate.pareto)
    extra = {
        member.method: dict.fromkeys(params.tasks, params.resolver.resolve(member.record.settings))
        for member in members
        if not member.roles
    }
    prompts = [one.prompt for own in (*configs.values(), *extra.values()) for one in own.values()]
    n_ctx, depth = max(one.n_ctx for one in prompts), max(one.depth for one in prompts)
    inputs = load_inputs(params.tasks, params.inputs, n_ctx, depth)
    backbone = inputs.backbone
    job = EvaluationJob(inputs.text, inputs.tasks, params.tested_by, params.sweep.gpus_per_trial)
    trained = trained_tasks(job.protocol, params.tasks)
    check_splits([job.tasks[task] for task in trained], ("train",))
    check_splits(list(job.tasks.values()), ("test",))
    captions = {task: inputs.captions_KE(task) for task in params.tasks}
    found = [
        one
        for task in trained
        for one in measure_zero_shot(job.protocol, job.tasks, task, captions)
    ]
    shots = job.protocol.shots or [params.sweep.shots]
    planned = plan_fits(configs, trained, shots, params.evaluate.seeds, extra)
    clear_folder(paths.EVALUATION)
    resources = params.sweep.cpus_per_trial, params.sweep.gpus_per_trial
    fits = [one.fit for one in planned]
    with cluster(), tqdm(total=len(fits), desc="evaluate", unit="fit") as bar:
        check_resources(*resources)
        for index, (measured, prompts) in map_parallel(refit, fits, job, *resources):
            for method in planned[index].methods:
                own = [replace(one, method=method) for one in measured]
                found += own
                if fits[index].shots == max(shots):
                    save_prompts(
                        params, backbone, replace(fits[index], method=method), own, prompts, job
                    )
            bar.update()
    order = [ZERO_SHOT, *sorted(configs), *extra]
    found.sort(
        key=lambda one: (
            order.index(one.method), params.tasks.index(one.source), one.shots, one.seed or 0
        )
    )  # fmt: skip
    plain = [one for one in found if one.method not in extra]
    save_json(
        paths.RESULTS,
        {
            "study": chosen["study"],
            "winners": chosen["winners"],
            "protocol": params.protocol,
            "measurements": [asdict(one) for one in plain],
            "pareto": {
                "members": [member.describe() for member in members],
                "measurements": [asdict(one) for one in found if one.method in extra],
            },
            "data": {task: asdict(describe_data(job.tasks[task])) for task in trained},
            "provenance": {
                "git_commit": git_commit(),
                "backbone": backbone.fingerprint,
                "versions": versions(),
                "data_hash": inputs.data_hash,
            },
        },
    )
    log_results(tracker, chosen["study"], params.protocol, plain)


def configurations(params: Params, chosen: dict[str, Any]) -> dict[str, dict[str, Configuration]]:
    """Return what is refit, by method and task.

    These are `evaluate.methods` as params.yaml has them, the sweep's winners, and, if asked for,
    those that each task of the sweep would have chosen on its own.
    """
    settings: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(params.tasks, {"method": name}) for name in params.evaluate.methods
    }
    for role, record in chosen["winners"].items():
        settings[role] = dict.fromkeys(params.tasks, TrialRecord(**record).settings)
    for role, records in chosen["per_task"].items() if params.evaluate.per_task else ():
        own = {task: TrialRecord(**record).settings for task, record in records.items()}
        settings[f"{role}_per_task"] = own
    return {
        method: {task: params.resolver.resolve(found) for task, found in by_task.items()}
        for method, by_task in settings.items()
    }


def log_results(tracker: Tracker, study: str, protocol: str, found: list[Measurement]) -> None:
    """Record each method's test accuracy, mean over tasks and seeds, below the study's run."""
    groups: dict[str, list[float]] = {}
    for one in found:
        words = (one.method, one.side, one.domain, f"{one.shots}_shots" if one.shots else "")
        groups.setdefault("/".join(filter(None, words)), []).append(one.accuracy)
    means = {name: mean(values) for name, values in groups.items()}
    means |= {f"{one.method}/size_bytes": float(one.size_bytes) for one in found}
    parent, tags = tracker.find_run(study) or "", {"study": study, "protocol": protocol}
    with tracker.run(f"{study}/{protocol}", "evaluate", tags, parent) as run_id:
        tracker.log(run_id, metrics=[(name, value, 0) for name, value in means.items()])


def save_prompts(
    params: Params,
    backbone: Backbone,
    fit: Fit,
    found: list[Measurement],
    prompts: list[StoredPrompt],
    job: EvaluationJob,
) -> None:
    """Keep every stored prompt with what it needs to be used and what it reached."""
    for seed, prompt in zip(fit.seeds, prompts, strict=True):
        own = [one for one in found if one.seed == seed and one.target == fit.task]
        about = {
            "method": fit.method,
            "task": fit.task,
            "seed": seed,
            "scores": scores(own),
            "size_bytes": prompt.size_bytes,
            "n_parameters": own[0].n_parameters,
            "settings": {"prompt": fit.prompt.model_dump(), "train": fit.train.model_dump()},
            "class_names": list(job.tasks[fit.task].class_names),
            "backbone": params.backbone.model_dump(),
        }
        path = paths.prompt_path(fit.method, fit.task, seed)
        save = partial(save_prompt, prompt=prompt, fingerprint=backbone.fingerprint, about=about)
        write_atomic(path, save)


def scores(own: list[Measurement]) -> dict[str, float]:
    """Return what a prompt reached on the task that it was trained on, in [0, 1]."""
    reached = {one.side: one.accuracy for one in own if one.domain == "shots"}
    if set(reached) == {"base", "new"}:
        return {**reached, "harmonic_mean": harmonic_mean(**reached)}
    return {"accuracy": reached["all"]}


if __name__ == "__main__":
    run_stage(main)
