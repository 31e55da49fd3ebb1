"""The settings of training, of protocols, and of how winners are refit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pipeline.clip.config import BackboneConfig
from pipeline.core.config import Config, Precision
from pipeline.core.errors import report_all
from pipeline.features.config import FeaturesConfig

Protocol = Literal["base_to_new", "few_shot", "cross_dataset", "domain_generalization"]
Schedule = Literal["fast", "coop"]


class BoostConfig(Config):
    """Sums of learning rates, as multiples of CoOp's, that end at its training loss.

    Small batches leave the flat start of the flow sooner than the whole batch does, and the more
    so the freer the prompt is to follow their noise.
    """

    full: float = Field(gt=0)
    low_rank: float = Field(gt=0)
    quantized: float = Field(gt=0)


class FastConfig(Config):
    """The whole batch at every step: linear warm-up, a plateau, linear decay."""

    stride: int = Field(ge=1)
    """Steps of CoOp's schedule that one step stands for."""
    boost: BoostConfig
    min_steps: int = Field(ge=1)
    """Steps of a fit that CoOp's schedule would have given fewer than `stride` times as many."""
    warmup_steps: int = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    """Share of the steps in which the learning rate falls to zero."""


class CoopConfig(Config):
    """The schedule of CoOp's public code (arXiv 2109.01134)."""

    epochs: Annotated[int, Field(ge=1)] | Literal["auto"]
    """Passes over the shots; `auto` is 50 for 1 shot, 100 for 2 to 7, 200 for 8 and more."""
    batch_size: int = Field(ge=1)


def coop_epochs(config: CoopConfig, shots: int) -> int:
    """Return the number of passes over the training images."""
    if config.epochs != "auto":
        return config.epochs
    return 50 if shots < 2 else 100 if shots < 8 else 200


class TrainConfig(Config):
    """The optimizer (SGD; with Nesterov's momentum if `fast`) and its schedule."""

    schedule: Schedule
    """`fast`, or `coop`: the papers' own, which takes many times longer."""
    lr: float = Field(gt=0)
    """Peak learning rate in CoOp's terms; `fast` takes larger steps, fewer of them."""
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    precision: Precision
    """Of the matrix products in the towers; everything else stays in float32. `bfloat16` becomes
    float32, with a warning, on a device without bfloat16 instructions; records say which."""
    kg_weight: float = Field(default=0.0, ge=0)
    """Pull of the class embeddings to those of the template (KgCoOp's lambda; the paper's is 8)."""
    rounds: int = Field(ge=1)
    """How often a fit measures and reports; its steps are divided over the rounds."""
    fast: FastConfig
    coop: CoopConfig

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        fewest = self.fast.min_steps
        if self.schedule == "coop":
            fewest = coop_epochs(self.coop, shots=1)
        if self.rounds > fewest:
            raise ValueError(f"rounds must be at most {fewest}: a fit may have as few steps")
        return self


class ProtocolConfig(Config):
    """A protocol."""

    train: Literal["base", "all"]
    """Classes that are trained."""
    test: Literal["halves", "all", "tasks", "domains"]
    """Base and new classes apart; all classes; those of other tasks; those of other domains."""
    source: str | None = None
    """The only task that is trained on; null: every task is, on its own."""
    targets: list[str] | None = None
    """Tasks that are tested on, for `tasks`, and for `domains` that are data sets of their own
    (ImageNet's variants); null: all others."""
    shots: list[int] | None = Field(default=None, min_length=1)
    """Images per class, one fit for each number; null: `sweep.shots`."""


def check_protocol(name: str, config: ProtocolConfig, tasks: Sequence[str]) -> None:
    """Refuse sources and targets that are not prepared.

    Raises:
        ValueError: naming them.
    """
    named = {"source": [config.source] if config.source else [], "targets": config.targets or []}
    report_all(
        f"protocols.{name}",
        [
            f"{key}: got {task!r}; expected one of {list(tasks)}"
            for key, found in named.items()
            for task in found
            if task not in tasks
        ],
    )


class EvaluateConfig(Config):
    """How winners are chosen and measured."""

    seeds: list[int] = Field(min_length=1)
    compact_within: float = Field(ge=0, le=1)
    """The compact winner is the smallest prompt whose score is at most this far from the best."""
    methods: list[str]
    """Named methods that are refit and tested beside the winners, as params.yaml has them."""
    per_task: bool
    """Whether the winners of every task on its own are refit, too, beside the common ones."""
    pareto: bool
    """Whether the other trials of the Pareto front are refit, too, with the first seed alone."""


Validation = Literal["all", "drawn"]


class InputsConfig(NamedTuple):
    """What inputs should have been made with.

    Attributes:
        backbone: which towers.
        features: how images are encoded.
        root: where the paths of pictures start.
        init: the words that start a context.
    """

    backbone: BackboneConfig
    features: FeaturesConfig
    root: Path
    init: str
