"""What becomes one version of a registered model: its files, its tags, its hash.

A release holds the prompts of all tasks of one configuration. Nothing here knows MLflow.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.clip.config import BackboneConfig
from pipeline.core.code import ROOT, code_identity, import_closure, module_file
from pipeline.core.hashes import bytes_hash, file_hash, value_hash
from pipeline.prompts.file import load_prompt, pack_prompt
from pipeline.registry.promotion import BENCHMARK, SCORE
from pipeline.training.records import Measurement

SERVED = "pipeline.serving.model"
"""The module that MLflow runs as the model."""
EXEMPT = {
    "pipeline.core.errors": "messages",
    "pipeline.serving.calls": "checks of requests",
    "pipeline.serving.guard": "limits of the server",
}
"""Modules that travel with a model and cannot change a prediction, with the reason."""
MAX_TAG = 5000
"""Characters: MLflow allows more, its tables on PostgreSQL and MySQL do not."""
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
class Release:
    """What becomes one version.

    Attributes:
        method: what its prompts are called in their files: `champion`, `pareto-7`, ...
        aliases: those that it is a candidate for: champion, compact, both or none.
        study: the sweep that chose it.
        trial: its number there.
        score: its validation score, in [0, 1].
        seed: of all its prompts. It must be fixed before any test image is seen.
        prompts: the file of each task; the first task is the model's default.
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
    prompts: dict[str, Path]
    backbone: BackboneConfig
    towers: Path | None
    fingerprint: str
    benchmark: dict[str, str]
    measured: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        """Check what the author of this project must give."""
        assert tuple(self.benchmark) == BENCHMARK, "a benchmark has its names, in their order"

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


def load_abouts(release: Release) -> dict[str, dict[str, Any]]:
    """Return each prompt's description.

    Raises:
        ValueError: if a file is missing, or is not of this method, task, seed and backbone.
    """
    abouts: dict[str, dict[str, Any]] = {}
    for task, path in release.prompts.items():
        _, abouts[task] = load_prompt(path, release.fingerprint)
        found = tuple(abouts[task].get(key) for key in ("method", "task", "seed"))
        if found != (release.method, task, release.seed):
            raise ValueError(
                f"{path}: found {found}; allowed is "
                f"{(release.method, task, release.seed)}; run `dvc repro evaluate`"
            )
    return abouts


def version_tags(release: Release, abouts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what a version says of itself.

    Scores are test accuracies in [0, 1] of the registered seed, mean over tasks; `seeds` lists
    those that the test was repeated with. `size_bytes` is the learned state of one task's prompt,
    and `file_bytes` its whole file, each the largest if they differ.
    """
    first = next(iter(abouts.values()))
    settings = first["settings"]["prompt"]
    scores = {
        name: f"{mean(about['scores'][name] for about in abouts.values()):.6f}"
        for name in first["scores"]
    }
    seeds = sorted({one.seed for one in release.measured if one.seed is not None})
    return {
        "role": ", ".join(release.aliases) or "pareto",
        "study": release.study,
        "trial": str(release.trial),
        SCORE: f"{release.score:.6f}",
        "seed": str(release.seed),
        "seeds": str(seeds or [release.seed]),
        **{key: str(settings[key]) for key in ("rank", "bits", "n_ctx")},
        "size_bytes": str(max(about["size_bytes"] for about in abouts.values())),
        "file_bytes": str(max(path.stat().st_size for path in release.prompts.values())),
        **scores,
        **release.benchmark,
        "backbone": f"{release.backbone.name} {release.backbone.pretrained or ''}".strip(),
        "fingerprint": release.fingerprint,
        "git_commit": first["git_commit"],
        "code": first["code"],
        **prompt_tags(release),
    }


def prompt_tags(release: Release) -> dict[str, str]:
    """Return each task's whole packed prompt as base64, where it fits into a tag.

    Where class names and settings make the file too long, the prompt is packed without them;
    `unpack_prompt(base64.b64decode(tag))` restores either, bit by bit.
    """
    tags = {}
    for task, path in release.prompts.items():
        prompt, _ = load_prompt(path)
        short = {"method": release.method, "task": task, "seed": release.seed}
        for data in (path.read_bytes(), pack_prompt(prompt, release.fingerprint, short)):
            text = base64.b64encode(data).decode("ascii")
            if len(text) <= MAX_TAG:
                tags[f"prompt.{task}"] = text
                break
    return tags


def requirements() -> list[str]:
    """Return the packages that a model needs, with the versions in use."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def contents(release: Release) -> dict[str, Path]:
    """Return the files that the model is made of, by their place in it."""
    files = {f"prompts/{task}.prompt": path for task, path in release.prompts.items()}
    for module in import_closure([SERVED]):
        file = module_file(module)
        assert file is not None, module
        files[f"code/{file.relative_to(ROOT).as_posix()}"] = file
    folder = release.towers
    for path in sorted(folder.rglob("*")) if folder else []:
        place = path.relative_to(folder or "")
        if path.is_file() and not any(part.startswith(".") for part in place.parts):
            files[f"backbone/{place.as_posix()}"] = path
    return files


def content_hash(release: Release) -> str:
    """Return the SHA-256 of all that can change a prediction.

    These are the prompts and their class names, the towers, the description, the packages, and the
    code by meaning: an edit of a comment, or of a module in `EXEMPT`, makes no new version, nor
    does a prompt that was trained again to the same values.
    """
    hashes = {
        place: file_hash(path)
        for place, path in contents(release).items()
        if place.startswith("backbone/")
    }
    for task, path in release.prompts.items():
        prompt, about = load_prompt(path)
        names = {"class_names": about.get("class_names")}
        hashes[task] = bytes_hash(pack_prompt(prompt, release.fingerprint, names))
    code = code_identity([SERVED], EXEMPT)
    return value_hash([release.about, hashes, code, requirements()])
