"""Refit the Pareto winners on all base classes and test them; those with a role with every seed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from pipeline.core import paths
from pipeline.core.files import clear_folder, load_record, save_record
from pipeline.core.provenance import origin
from pipeline.core.stage import run_stage
from pipeline.params import load_params
from pipeline.prompts.stored import StoredPrompt
from pipeline.sweep.ray_cluster import check_resources, cluster, map_parallel
from pipeline.tracking.tracker import Tracker
from pipeline.training.evaluation import make_results, save_prompts
from pipeline.training.inputs import load_inputs
from pipeline.training.plan import Planned, make_plan
from pipeline.training.protocols import trained_tasks
from pipeline.training.records import Measurement, Winners
from pipeline.training.refit import (
    ZERO_SHOT,
    ZERO_SHOT_OWN,
    EvaluationJob,
    measure_zero_shot,
    refit,
)
from pipeline.training.results import Results
from pipeline.training.trial import check_splits


def main() -> None:
    """Run the stage."""
    params = load_params()
    tracker = Tracker(params.tracking, paths.STATE)
    made_by = origin(["pipeline.training.evaluation"])
    chosen = load_record(paths.WINNERS, Winners)
    plan = make_plan(params.resolver, params.evaluate, params.tasks, chosen)
    inputs = load_inputs(params.tasks, params.inputs, plan.largest("n_ctx"), plan.largest("depth"))
    protocol, tasks = params.tested_by, inputs.tasks
    trained = trained_tasks(protocol, params.tasks)
    check_splits([tasks[task] for task in trained], ("train",))
    check_splits(list(tasks.values()), ("test",))
    found: list[Measurement] = []
    for method, template in ((ZERO_SHOT, f"{params.prompt.init} {{}}."), (ZERO_SHOT_OWN, None)):
        captions = {task: inputs.captions_KE(task, template) for task in tasks}
        for task in trained:
            found += measure_zero_shot(protocol, tasks, task, captions, method)
    shots = protocol.shots or [params.sweep.shots]
    planned = plan.fits(trained, shots, params.evaluate.seeds)
    job = EvaluationJob(inputs.text, tasks, protocol, params.sweep.gpus_per_trial)
    clear_folder(paths.EVALUATION)
    for one, measured, prompts in run_fits(job, planned, params.sweep.cpus_per_trial):
        for method in one.methods:
            own = [replace(each, method=method) for each in measured]
            found += own
            if one.fit.shots == max(shots):
                save_prompts(inputs, made_by, replace(one.fit, method=method), own, prompts)
    results = make_results(inputs, made_by, chosen, params.protocol, plan, found)
    save_record(paths.RESULTS, results)
    log_results(tracker, results)


def run_fits(
    job: EvaluationJob, planned: Sequence[Planned], cpus: float
) -> Iterator[tuple[Planned, list[Measurement], list[StoredPrompt]]]:
    """Run all fits on the cluster; yield what each reached as it ends."""
    fits = [one.fit for one in planned]
    with cluster(), tqdm(total=len(fits), desc="evaluate", unit="fit") as bar:
        check_resources(cpus, job.gpus)
        for index, (measured, prompts) in map_parallel(refit, fits, job, cpus, job.gpus):
            yield planned[index], measured, prompts
            bar.update()


def log_results(tracker: Tracker, results: Results) -> None:
    """Record each method's test accuracy, mean over tasks and seeds, below the study's run."""
    study, made = results.study, results.provenance
    tags = {"study": study, "protocol": results.protocol}
    tags |= {"git_commit": made.git_commit, "code": made.code}
    parent = tracker.find_run(study) or ""
    with tracker.run(f"{study}/{results.protocol}", "evaluate", tags, parent) as run_id:
        tracker.log(run_id, metrics=[(name, one, 0) for name, one in results.averages.items()])


if __name__ == "__main__":
    run_stage(main)
