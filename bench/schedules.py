"""Does `schedule: fast` reach what CoOp's schedule reaches? Measure both, write the evidence.

    make schedules        # what bench/schedules.json lacks (hours), then docs/schedules.md

A unit is a task, a method and a schedule. It trains five seeds on all base classes and is
measured on test images as it trains. Half of the 16 training images of a class are drawn, so that
seeds differ in their images; CoOp's schedule passes 200 times over 8 shots as over 16. Validation
images of the same units chose the stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.units import measure_missing, parser
from pipeline.clip.backbone import load_backbone
from pipeline.core import paths
from pipeline.data.classes import split_base_new
from pipeline.features.files import load_features
from pipeline.params import load_params
from pipeline.training.task_run import Point, TaskRun

RESULTS = Path("bench/schedules.json")
SEEDS = (1, 2, 3, 4, 5)
SHOTS = 8
METHODS: dict[str, dict[str, Any]] = {
    "full": {"prompt.rank": "full", "prompt.bits": 16},
    "low-rank": {"prompt.rank": 1, "prompt.bits": 16},
    "quantized": {"prompt.rank": "full", "prompt.bits": 1},
}
STRIDES = (20, 40, 80, 160)
COOP_ROUNDS = 20


@dataclass(frozen=True)
class Unit:
    """One training to measure; `stride` is None for CoOp's schedule."""

    task: str
    method: str
    stride: int | None
    shots: int = SHOTS

    @property
    def key(self) -> str:
        """Its name in the results."""
        schedule = f"fast-{self.stride}" if self.stride else "coop"
        return f"{self.task}/{self.method}/{self.shots}/{schedule}"


def all_units(tasks: list[str]) -> Iterator[Unit]:
    """Yield every unit, the quick ones first."""
    for stride in (*STRIDES, None):
        for task in tasks:
            for method in METHODS:
                yield Unit(task, method, stride)


def settings_of(unit: Unit) -> dict[str, Any]:
    """Return a unit's configuration, at CoOp's own learning rate."""
    settings = {**METHODS[unit.method], "train.lr": 0.002}
    if unit.stride is None:
        return {**settings, "train.schedule": "coop", "train.rounds": COOP_ROUNDS}
    fast = {"train.schedule": "fast", "train.fast.stride": unit.stride}
    return {**settings, **fast, "train.fast.min_steps": 1, "train.rounds": 1}


def measure_unit(unit: Unit) -> dict[str, Any]:
    """Train one unit; return the accuracies of every seed after every round."""
    params = load_params()
    prompt, train = params.resolver.resolve(settings_of(unit))
    features = load_features(paths.features_path(unit.task))
    text = load_backbone(params.backbone.on_cpu()).text_side(prompt.init, features.class_names)
    halves = split_base_new(range(len(features.class_names)))
    points = [Point(prompt, train.lr, seed) for seed in SEEDS]
    run = TaskRun(text, features, points, train, halves[0], unit.shots)
    curve = []
    for _ in range(train.rounds):
        losses = run.fit.run_round()
        measured: dict[str, Any] = {"step": run.fit.step, "loss": losses}
        for split in ("val", "test"):
            for side, classes in zip(("base", "new"), halves, strict=True):
                measured[f"{split}_{side}"] = run.measure(split, classes, features.shot_domains)
        curve.append(measured)
    return {**asdict(unit), "n_steps": run.fit.n_steps, "curve": curve}


def main() -> None:
    """Measure what is missing, keeping every unit as soon as it is done; then write the docs."""
    from bench.schedules_report import write_report

    options = parser(__doc__.splitlines()[0])
    options.add_argument("--tasks", nargs="*", default=load_params().tasks)
    chosen = options.parse_args()
    units = {} if chosen.report else {unit.key: unit for unit in all_units(chosen.tasks)}
    write_report(measure_missing(RESULTS, units, measure_unit, chosen.workers))


if __name__ == "__main__":
    main()
