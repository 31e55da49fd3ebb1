"""The papers' own questions, asked again on the embedded benchmark.

    make ablations        # what bench/ablations.json lacks (under an hour), then docs/ablations.md

An arm is a configuration. A unit is an arm on a task, with five seeds, in one of two protocols:
`test` trains on all base classes and measures test images of base and new classes; `select` does
what a trial of the sweep does: half of the base classes train, the other half stand in for new
ones, and validation images are measured. Learning rates are chosen by `select` alone.

Eight of the 16 training images of a class are drawn, so that seeds differ in their images.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from bench.units import Results, measure_missing, parser
from pipeline.clip.backbone import load_backbone
from pipeline.clip.encoders import TextSide
from pipeline.core import paths
from pipeline.core.hashes import value_hash
from pipeline.data.classes import split_base_new
from pipeline.data.manifest import load_manifest
from pipeline.features.files import load_features
from pipeline.features.loader import with_pictures
from pipeline.features.task import TaskFeatures
from pipeline.params import load_params
from pipeline.training.metrics import harmonic_mean
from pipeline.training.task_run import Point, TaskRun

RESULTS = Path("bench/ablations.json")
SEEDS = (1, 2, 3, 4, 5)
SHOTS = 8
SMALL = ("activities", "food-drink", "animals-nature", "smileys-emotion")
"""Tasks of all tables but the first: the four with the fewest classes."""
LRS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
SWEPT = 24
"""Configurations drawn from the sweep's space to see whether selection works."""

Settings = Mapping[str, Any]
Protocol = Literal["test", "select"]


@dataclass(frozen=True)
class Unit:
    """One configuration on one task, all seeds in one pass."""

    settings: Settings
    task: str
    protocol: Protocol

    @property
    def key(self) -> str:
        """Its name in the results: another configuration has another name."""
        prompt, train = load_params().resolver.resolve(dict(self.settings))
        plain = (
            config.model_dump(mode="json", exclude_defaults=True) for config in (prompt, train)
        )
        whole = [*plain, SHOTS, SEEDS]
        return f"{self.protocol}/{self.task}/{value_hash(whole)[:16]}"


def quantized(bits: int, **quantizer: Any) -> Settings:
    """Return QCoOp with changed settings of its quantizer."""
    own = {f"prompt.quantizer.{name}": value for name, value in quantizer.items()}
    return {"method": "qcoop", "prompt.bits": bits, **own}


def compact(**changed: Any) -> Settings:
    """Return the low-rank quantized prompt with changed settings; `__` stands for the dot."""
    own = {name.replace("__", "."): value for name, value in changed.items()}
    return {"method": "low_rank_quantized", **own}


COOP: Settings = {"method": "coop"}
TUNED: dict[str, Settings] = {
    **{
        name: {"method": name}
        for name in ("coop", "rlp", "residual", "qcoop", "low_rank_quantized", "kgcoop")
    },
    "low_rank_quantized, kgcoop": compact(train__kg_weight=8),
}
"""Methods of the first table, each at the learning rate that validation chooses."""
QUESTIONS: dict[str, dict[str, Settings]] = {
    "rank": {
        **{f"rank {r}": {"method": "rlp", "prompt.rank": r} for r in (1, 2, 3, 4)},
        **{
            f"rank {r}, no dropout": {"method": "rlp", "prompt.rank": r, "prompt.dropout": 0}
            for r in (1, 4)
        },
        "full (CoOp)": COOP,
        "full, with the boost of low rank": {**COOP, "train.fast.boost.full": 1.5},
    },
    "bits": {
        **{
            f"{b} bit{'s' * (b > 1)}, {mode.upper()}": quantized(b, mode=mode)
            for mode in ("qat", "ptq")
            for b in (1, 2, 4, 8)
        },
        "16 bits (CoOp)": COOP,
        "16 bits, with the boost of quantized": {**COOP, "train.fast.boost.full": 1.0},
    },
    "clustering": {
        f"{b} bit{'s' * (b > 1)}, {name}": quantized(b, **changed)
        for b in (1, 2)
        for name, changed in {
            "k-means at every step": {"interval": 1, "kl_threshold": 0, "normalize": False},
            "normalized, at every step": {"interval": 1, "kl_threshold": 0},
            "adaptive, not normalized": {"normalize": False},
            "normalized and adaptive": {},
        }.items()
    },
    "noise": {
        **{f"noise {std:g}": {**COOP, "prompt.noise_std": std} for std in (0.001, 0.01, 0.1)},
        "none (CoOp)": COOP,
    },
    "residual": {
        f"{method}, lr {lr:g}": {"method": method, "train.lr": lr}
        for method in ("coop", "residual")
        for lr in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    },
    "length": {
        f"{method}, {n} tokens": {"method": method, "prompt.n_ctx": n}
        for method in ("coop", "residual")
        for n in (2, 4, 8, 16)
    },
    "towers": {
        "MaPLe": {"method": "maple"},
        "QMaPLe": {"method": "qmaple"},
        "CoOp, 2 tokens": {**COOP, "prompt.n_ctx": 2},
    },
    "design": {
        "rank 1, 1 bit": compact(),
        "U in half precision": compact(prompt__low_rank__left_bits=16),
        "U frozen": compact(prompt__low_rank__left_lr=0),
        "U 4 times faster": compact(prompt__low_rank__left_lr=4),
        "U starts at half": compact(prompt__low_rank__left_scale=0.5),
        "U starts at double": compact(prompt__low_rank__left_scale=2),
        "U orthogonal": compact(prompt__low_rank__left_init="orthogonal"),
        "not normalized": compact(prompt__quantizer__normalize=False),
        "PTQ": compact(prompt__quantizer__mode="ptq"),
        "rank 2": compact(prompt__rank=2),
        "rank 2, a codebook per row": compact(prompt__rank=2, prompt__quantizer__codebooks="row"),
        "rank 3": compact(prompt__rank=3),
        "rank 1, 2 bits": compact(prompt__bits=2),
        "rank 1, 4 bits": compact(prompt__bits=4),
        "2 tokens": compact(prompt__n_ctx=2),
        "8 tokens": compact(prompt__n_ctx=8),
        "with a residual network": compact(prompt__residual__hidden=64),
        "with KgCoOp": compact(train__kg_weight=8),
        "with noise of 0.1": compact(prompt__noise_std=0.1),
        "with U and V 4 times faster": compact(train__lr=0.008),
        "with KgCoOp, 4 times faster": compact(train__kg_weight=8, train__lr=0.008),
    },
}


def swept_settings() -> list[Settings]:
    """Draw configurations from the sweep's space."""
    params, rng = load_params(), random.Random(0)
    found: list[Settings] = []
    while len(found) < SWEPT:
        drawn = {name: axis.draw(rng) for name, axis in params.sweep.space.items()}
        if params.resolver.problem(drawn) is None:
            found.append(drawn)
    return found


def tuned_units() -> Iterator[Unit]:
    """Yield what chooses the learning rates."""
    for settings in TUNED.values():
        for lr in LRS:
            for task in SMALL:
                yield Unit({**settings, "train.lr": lr}, task, "select")


def other_units() -> Iterator[Unit]:
    """Yield what needs no choice before it."""
    for arms in QUESTIONS.values():
        for settings in arms.values():
            for task in SMALL:
                yield Unit(settings, task, "test")
    for settings in swept_settings():
        for task in SMALL:
            yield Unit(settings, task, "select")
            yield Unit(settings, task, "test")


def score(results: Results, settings: Settings) -> float:
    """Return the validation harmonic mean of a configuration, as a trial of the sweep has it."""
    found = [results[Unit(settings, task, "select").key] for task in SMALL]
    return harmonic_mean(*(mean(mean(r[f"val_{side}"]) for r in found) for side in ("base", "new")))


def chosen_settings(results: Results) -> dict[str, Settings]:
    """Return the methods of the first table, at the learning rate with the best score."""
    chosen: dict[str, Settings] = {"zero_shot": {"method": "zero_shot"}}
    for name, settings in TUNED.items():
        arms: list[Settings] = [{**settings, "train.lr": lr} for lr in LRS]
        chosen[name] = max(arms, key=lambda arm: score(results, arm))
    return chosen


@cache
def load_task(task: str, deep: bool) -> tuple[TaskFeatures, TextSide]:
    """Load a task's features, pictures if prompts are deep, and towers, once per process."""
    params = load_params()
    features = load_features(paths.features_path(task))
    backbone = load_backbone(params.backbone.on_cpu())
    if deep:
        manifest = load_manifest(paths.manifest_path(task), root=params.prepare.root)
        alone = params.features.model_copy(update={"workers": 0})  # a worker has no workers
        features = with_pictures(features, backbone, manifest, alone)
    return features, backbone.text_side(params.prompt.init, features.class_names, deep)


def measure_unit(unit: Unit) -> Results:
    """Train a unit and return what was measured, by seed; accuracies in [0, 1]."""
    prompt, train = load_params().resolver.resolve(dict(unit.settings))
    features, text = load_task(unit.task, prompt.depth > 0)
    base, new = split_base_new(range(len(features.class_names)))
    if unit.protocol == "select":
        base, new = split_base_new(base)
    points = [Point(prompt, train.lr, seed) for seed in SEEDS]
    run = TaskRun(text, features, points, train, base, SHOTS)
    losses = [run.fit.run_round() for _ in range(train.rounds)]
    found: Results = {**asdict(unit), "loss": losses[-1], "size_bytes": run.stored()[0].size_bytes}
    found["n_parameters"] = sum(p.numel() for p in run.replicas[0].prompt.parameters())
    for split in ("val", "test") if unit.protocol == "test" else ("val",):
        for side, classes in (("base", base), ("new", new)):
            if (split, side, unit.protocol) != ("val", "new", "test"):
                found[f"{split}_{side}"] = run.measure(split, classes, features.shot_domains)
    return found


def main() -> None:
    """Measure what is missing, then write the docs."""
    from bench.ablations_report import write_report

    options = parser(__doc__.splitlines()[0]).parse_args()

    def measure(units: Iterator[Unit]) -> Results:
        found = {} if options.report else {unit.key: unit for unit in units}
        return measure_missing(RESULTS, found, measure_unit, options.workers)

    measure(tuned_units())
    results = measure(other_units())
    chosen = chosen_settings(results)
    tasks = load_params().tasks
    write_report(measure(Unit(s, t, "test") for s in chosen.values() for t in tasks))


if __name__ == "__main__":
    main()
