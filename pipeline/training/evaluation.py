"""The records of `evaluate`: prompts with what they reached, and results with what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from pipeline.core import paths
from pipeline.core.files import write_atomic
from pipeline.core.provenance import Origin, versions
from pipeline.prompts.file import save_prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.config import Protocol
from pipeline.training.inputs import Inputs
from pipeline.training.plan import Plan
from pipeline.training.records import Measurement, Winners
from pipeline.training.refit import Fit, describe_data
from pipeline.training.results import Front, PromptRecord, Provenance, Results, scores


def save_prompts(
    inputs: Inputs,
    origin: Origin,
    fit: Fit,
    measured: Sequence[Measurement],
    prompts: Sequence[StoredPrompt],
) -> None:
    """Write every prompt of a fit with what it needs to be used and what it reached."""
    for seed, prompt in zip(fit.seeds, prompts, strict=True):
        own = [one for one in measured if one.seed == seed and one.target == fit.task]
        about = PromptRecord(
            method=fit.method,
            task=fit.task,
            seed=seed,
            scores=scores(own),
            size_bytes=prompt.size_bytes,
            n_parameters=own[0].n_parameters,
            settings={"prompt": fit.prompt.model_dump(), "train": fit.train.model_dump()},
            class_names=inputs.tasks[fit.task].class_names,
            backbone=inputs.config.backbone.model_dump(),
            origin=origin,
        )
        save = partial(
            save_prompt,
            prompt=prompt,
            fingerprint=inputs.backbone.fingerprint,
            about=asdict(about),
        )
        write_atomic(paths.prompt_path(fit.method, fit.task, seed), save)


def make_results(
    inputs: Inputs,
    origin: Origin,
    chosen: Winners,
    protocol: Protocol,
    plan: Plan,
    measured: Sequence[Measurement],
) -> Results:
    """Return all measurements in order, with what they were measured on and what made them."""
    tasks = list(inputs.tasks)
    found = sorted(
        measured,
        key=lambda one: (
            plan.methods.index(one.method), tasks.index(one.source), one.shots, one.seed or 0
        ),
    )  # fmt: skip
    trained = dict.fromkeys(one.source for one in found)
    return Results(
        study=chosen.study,
        winners=chosen.winners,
        protocol=protocol,
        measurements=[one for one in found if one.method not in plan.extra],
        pareto=Front(list(plan.members), [one for one in found if one.method in plan.extra]),
        data={task: describe_data(inputs.tasks[task]) for task in trained},
        provenance=Provenance(
            **asdict(origin),
            backbone=inputs.backbone.fingerprint,
            versions=versions(),
            data_hash=inputs.data_hash,
        ),
    )
