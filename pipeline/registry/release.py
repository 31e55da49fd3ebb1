"""What becomes one version of a registered model: its files, its tags, its hash.

A release holds the prompts of all tasks of one configuration. Nothing here knows MLflow.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.clip.config import BackboneConfig
from pipeline.core import paths
from pipeline.core.code import ROOT, code_identity, import_closure, module_file
from pipeline.core.hashes import bytes_hash, file_hash, value_hash
from pipeline.prompts.file import pack_prompt, unpack_prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.registry.promotion import ALIASES, BENCHMARK, SCORE
from pipeline.training.records import Measurement
from pipeline.training.results import PromptRecord, Results

SERVED = "pipeline.serving.model"
"""The module that MLflow runs as the model."""
EXEMPT = {"pipeline.core.errors": "messages"}
"""Modules that travel with a model and cannot change a prediction, with the reason."""
MAX_TAG = 5000
"""Characters: MLflow 3.17 allows 8,000, its tables on PostgreSQL and MySQL do not."""
REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
)


@dataclass(frozen=True)
class PromptFile:
    """A prompt's file, read once: its bytes, its values, its description."""

    path: Path
    data: bytes
    prompt: StoredPrompt
    record: PromptRecord


def read_prompt(path: Path, fingerprint: str) -> PromptFile:
    """Read a prompt that `evaluate` wrote for a backbone.

    Raises:
        ValueError: if it is missing, damaged, of another backbone, or not of `evaluate`.
    """
    try:
        data = path.read_bytes()
        prompt, about = unpack_prompt(data, fingerprint)
        record = TypeAdapter(PromptRecord).validate_python(about)
    except (OSError, ValidationError) as error:
        reason = getattr(error, "strerror", "its description is not of `evaluate`")
        raise ValueError(f"{path}: {reason}; run `dvc repro evaluate`") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return PromptFile(path, data, prompt, record)


@dataclass(frozen=True)
class Release:
    """What becomes one version.

    Attributes:
        method: what its prompts are called in their files: `champion`, `pareto-7`, ...
        aliases: those that it is a candidate for: champion, compact, both or none.
        study: the sweep that chose it.
        trial: its number there.
        score: its validation score, in [0, 1].
        seed: of all its prompts. It must be fixed before any test image is seen.
        prompts: of each task; the first task is the model's default.
        backbone: which towers the prompts are for.
        towers: the towers' folder, if they travel with the model; None names them only.
        fingerprint: of the backbone.
        benchmark: what its validation score was measured on, by the names of `BENCHMARK`.
        measured: its test results, all seeds.
    """

    method: str
    aliases: tuple[str, ...]
    study: str
    trial: int
    score: float
    seed: int
    prompts: dict[str, PromptFile]
    backbone: BackboneConfig
    towers: Path | None
    fingerprint: str
    benchmark: dict[str, str]
    measured: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        """Refuse prompts of another method, task or seed.

        Raises:
            ValueError: naming the file.
        """
        assert tuple(self.benchmark) == BENCHMARK, "a benchmark has its names, in their order"
        for task, file in self.prompts.items():
            found = file.record.method, file.record.task, file.record.seed
            if found != (expected := (self.method, task, self.seed)):
                raise ValueError(
                    f"{file.path}: got {found}; expected {expected}; run `dvc repro evaluate`"
                )

    @property
    def about(self) -> dict[str, Any]:
        """The model's `model.json`."""
        folder = Path(self.backbone.name)
        name = str(folder.resolve()) if folder.is_dir() else self.backbone.name
        return {
            "method": self.method,
            "study": self.study,
            "trial": self.trial,
            "seed": self.seed,
            "tasks": list(self.prompts),
            "backbone": {
                "name": "backbone" if self.towers else name,
                "pretrained": None if self.towers else self.backbone.pretrained,
                "fingerprint": self.fingerprint,
            },
            "benchmark": self.benchmark,
        }

    @property
    def records(self) -> list[PromptRecord]:
        """What the prompts' files say of them."""
        return [file.record for file in self.prompts.values()]

    @property
    def scores(self) -> dict[str, float]:
        """Test accuracies in [0, 1] of the registered seed, mean over tasks."""
        return {
            name: mean(record.scores[name] for record in self.records)
            for name in self.records[0].scores
        }

    @property
    def tags(self) -> dict[str, str]:
        """What a version says of itself.

        `git_commit` and `code` made the prompts. `seeds` are those that the test was repeated
        with. `size_bytes` is the learned state of one task's prompt, and `file_bytes` its whole
        file, each the largest if they differ.
        """
        first = self.records[0]
        seeds = sorted({one.seed for one in self.measured if one.seed is not None})
        return {
            "role": ", ".join(self.aliases) or "pareto",
            "study": self.study,
            "trial": str(self.trial),
            SCORE: f"{self.score:.6f}",
            "seed": str(self.seed),
            "seeds": str(seeds or [self.seed]),
            **{key: str(first.settings["prompt"][key]) for key in ("rank", "bits", "n_ctx")},
            "size_bytes": str(max(record.size_bytes for record in self.records)),
            "file_bytes": str(max(len(file.data) for file in self.prompts.values())),
            **{name: f"{value:.6f}" for name, value in self.scores.items()},
            **self.benchmark,
            "backbone": f"{self.backbone.name} {self.backbone.pretrained or ''}".strip(),
            "fingerprint": self.fingerprint,
            "git_commit": first.origin.git_commit,
            "code": first.origin.code,
        }

    @property
    def prompt_tags(self) -> dict[str, str]:
        """Each task's whole packed prompt as base64, where it fits into a tag.

        Where class names and settings make the file too long, the prompt is packed without them;
        `unpack_prompt(base64.b64decode(tag))` restores either, bit by bit.
        """
        tags = {}
        for task, file in self.prompts.items():
            short = {"method": self.method, "task": task, "seed": self.seed}
            for data in (file.data, pack_prompt(file.prompt, self.fingerprint, short)):
                text = base64.b64encode(data).decode("ascii")
                if len(text) <= MAX_TAG:
                    tags[f"prompt.{task}"] = text
                    break
        return tags

    @cached_property
    def tower_files(self) -> dict[str, Path]:
        """The files of the towers that travel, by their place below `backbone/`."""
        folder = self.towers or Path()
        found = sorted(folder.rglob("*")) if self.towers else []
        places = {path.relative_to(folder): path for path in found if path.is_file()}
        return {
            place.as_posix(): path
            for place, path in places.items()
            if not any(part.startswith(".") for part in place.parts)
        }

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all that can change a prediction.

        These are the prompts and their class names, the towers, the description, the packages,
        and the code by meaning: an edit of a comment, or of a module in `EXEMPT`, makes no new
        version, nor does a prompt that was trained again to the same values.
        """
        hashes = {
            place: file_hash(path)
            for place, path in self.tower_files.items()
            if not place.endswith(".md")
        }
        for task, file in self.prompts.items():
            names = {"class_names": file.record.class_names}
            hashes[task] = bytes_hash(pack_prompt(file.prompt, self.fingerprint, names))
        code = code_identity([SERVED], EXEMPT)
        return value_hash([self.about, hashes, code, requirements()])


def requirements() -> list[str]:
    """Return the packages that a model needs, with the versions in use."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def code_files() -> dict[str, Path]:
    """Return the files of the code that travels, by their place."""
    found = {}
    for module in import_closure([SERVED]):
        file = module_file(module)
        assert file is not None, module
        found[file.relative_to(ROOT).as_posix()] = file
    return found


def make_releases(
    results: Results,
    tasks: Sequence[str],
    seed: int,
    backbone: BackboneConfig,
    towers: Path | None,
    benchmark: dict[str, str],
) -> list[Release]:
    """Return what becomes a version, smallest prompt first.

    Args:
        results: of `evaluate`.
        tasks: those that prompts were trained on.
        seed: of the prompts.
        backbone: which towers the prompts are for.
        towers: the towers' folder, if they travel.
        benchmark: what validation scores were measured on, but for the data and the protocol.

    Raises:
        ValueError: if a prompt's file is missing, damaged, or not of these results.
    """
    fingerprint = results.provenance.backbone
    measured = [*results.measurements, *results.pareto.measurements]
    shots = max(one.shots for one in measured)
    known = {"data_hash": results.provenance.data_hash, "protocol": results.protocol}
    return [
        Release(
            method=member.method,
            aliases=tuple(role for role in member.roles if role in ALIASES),
            study=results.study,
            trial=member.trial,
            score=member.score,
            seed=seed,
            prompts={
                task: read_prompt(paths.prompt_path(member.method, task, seed), fingerprint)
                for task in tasks
            },
            backbone=backbone,
            towers=towers,
            fingerprint=fingerprint,
            benchmark=known | benchmark,
            measured=tuple(
                one for one in measured if one.method == member.method and one.shots == shots
            ),
        )
        for member in results.pareto.members
    ]
