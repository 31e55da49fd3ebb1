"""Stored prompts and their backbone, ready to classify pictures; knows neither MLflow nor HTTP.

Shapes: N images, K classes, E joint embedding width, H = W pixels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.similarity import logits
from pipeline.clip.vision_tower import encode_tokens
from pipeline.core.errors import report_all
from pipeline.data.classes import split_base_new
from pipeline.prompts.file import load_prompt
from pipeline.prompts.stored import StoredPrompt

MAX_CLASSES = 2_000
MAX_NAME = 200
MAX_LETTERS = 100_000
"""Of all names together: tokenizers are slow with long words."""
KEPT_CLASS_LISTS = 32
TOP = 5
CANDIDATES = ("all", "base", "new")


class Predictor:
    """One prompt per task, and the backbone that they were learned for.

    Class embeddings are computed once for a task and a list of names; the last
    `KEPT_CLASS_LISTS` are kept. Threads may share it.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Mapping[str, StoredPrompt],
        class_names: Mapping[str, Sequence[str]],
    ) -> None:
        """Take prompts that were learned for this backbone, the default task first.

        Raises:
            ValueError: if a prompt stands in an image tower that cannot take any.
        """
        self.backbone, self.prompts = backbone, dict(prompts)
        self.class_names = {task: tuple(names) for task, names in class_names.items()}
        deep = any("coupling_JWD" in prompt.tensors for prompt in prompts.values())
        self.vision = backbone.vision_side() if deep else None
        self.cached_embeddings = lru_cache(KEPT_CLASS_LISTS)(self.class_embeddings)
        self.lock = Lock()  # tokenizers and towers keep what they computed

    @property
    def tasks(self) -> list[str]:
        """The tasks; the first is the default."""
        return list(self.prompts)

    def choose(
        self, task: str | None = None, candidates: str = "all", classes: Sequence[str] = ()
    ) -> tuple[str, tuple[str, ...]]:
        """Return the task and the class names to choose from.

        Args:
            task: whose prompt is used; None is the first.
            candidates: all, base or new classes of the task.
            classes: other names, instead of the task's.

        Raises:
            ValueError: if one of them is not allowed.
        """
        task = task or self.tasks[0]
        if task not in self.prompts:
            raise ValueError(f"task: found {task!r:.100}; allowed are {self.tasks}")
        if candidates not in CANDIDATES:
            raise ValueError(
                f"candidates: found {candidates!r:.100}; allowed are {list(CANDIDATES)}"
            )
        if classes:
            check_classes(classes)
            return task, tuple(classes)
        names = self.class_names[task]
        if not names:
            raise ValueError(f"classes: the prompt of {task!r} names none; allowed is to name them")
        base, new = split_base_new(range(len(names)))
        chosen = {"all": base + new, "base": base, "new": new}[candidates]
        if not chosen:
            raise ValueError(f"candidates: {task!r} has no {candidates} classes")
        return task, tuple(names[label] for label in chosen)

    def embeddings(self, task: str, names: tuple[str, ...]) -> Tensor:
        """Return the class embeddings `[K, E]` of a task's prompt, kept or computed.

        Raises:
            ValueError: if a name cannot be tokenized or is too long for the text tower.
        """
        with self.lock:
            return self.cached_embeddings(task, names)

    def class_embeddings(self, task: str, names: tuple[str, ...]) -> Tensor:
        """Compute the class embeddings `[K, E]` of a task's prompt, on the CPU."""
        prompt = self.prompts[task]
        text = self.backbone.text_side(prompt.init, names)
        text.check_names(prompt.n_ctx)
        embeddings = text.class_embeddings([prompt], text.pack(names, prompt.n_ctx))[0].cpu()
        self.backbone.forget_words()
        return embeddings

    def transform(self, picture: Image.Image) -> Tensor:
        """Return a decoded picture as the image tower takes it, `[3, H, W]`."""
        return self.backbone.transform(picture)

    @torch.inference_mode()
    def encode(self, pictures_N3HW: Tensor, task: str) -> Tensor:
        """Return unit features `[N, E]` of pictures, beside the task's prompt if it is deep."""
        vision_SJMW = self.vision_prompts(task)
        if vision_SJMW is None:
            return self.backbone.encode_images(pictures_N3HW)
        assert self.vision is not None, "deep prompts come with an image tower that takes them"
        token_NLW = self.vision.embed(pictures_N3HW.to(self.backbone.device))
        return encode_tokens(self.vision, token_NLW[None], vision_SJMW)[0].cpu()

    def vision_prompts(self, task: str) -> Tensor | None:
        """Return a task's prompt in the image tower, `[1, J, M, W]`, or None if it has none."""
        prompt = self.prompts[task]
        with self.lock:
            return self.backbone.text_side(prompt.init, ()).inputs([prompt]).vision_JMW

    def answer(self, image_NE: Tensor, task: str, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return columns of N rows: `class_name`, its `probability`, and the best few.

        Probabilities are the softmax over the names of scaled cosines (arXiv 2103.00020);
        `top_classes` and `top_probabilities` hold the best five as lists.
        """
        class_KE = self.embeddings(task, names)
        probability_NK = logits(image_NE, class_KE, self.backbone.logit_scale).softmax(dim=-1)
        top = probability_NK.topk(min(TOP, len(names)))
        top_classes = [[names[k] for k in row] for row in top.indices.tolist()]
        return {
            "class_name": [row[0] for row in top_classes],
            "probability": top.values[:, 0].tolist(),
            "top_classes": top_classes,
            "top_probabilities": top.values.tolist(),
        }


def load_model_files(folder: Path, towers: Path | None = None) -> Predictor:
    """Return what a registered version's files hold: `model.json`, and a prompt per task.

    Args:
        folder: that holds them.
        towers: the backbone's folder, where it travels with the model; None loads it by name.

    Raises:
        ValueError: if the backbone is not the one that the prompts were learned for, or not there.
    """
    about = json.loads((folder / "model.json").read_text())
    found = about["backbone"]
    name = str(towers) if towers else found["name"]
    try:
        backbone = load_backbone(BackboneConfig(name=name, pretrained=found["pretrained"]))
    except ValueError as error:
        raise ValueError(
            f"{error}. The model names its towers and does not hold them; "
            "`register.with_towers: true` makes them travel with it"
        ) from None
    return load_prompts(
        {task: folder / "prompts" / f"{task}.prompt" for task in about["tasks"]}, backbone
    )


def load_prompts(paths: Mapping[str, Path], backbone: Backbone) -> Predictor:
    """Return prompts by task, for one backbone.

    Raises:
        ValueError: if a file is damaged, or was learned for another backbone.
    """
    prompts, class_names = {}, {}
    for task, path in paths.items():
        prompts[task], about = load_prompt(path, backbone.fingerprint)
        names = about.get("class_names") if isinstance(about, dict) else None
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        class_names[task] = list(names or []) if is_list else []
    return Predictor(backbone, prompts, class_names)


def check_classes(classes: Sequence[str]) -> None:
    """Refuse class names that are empty, repeated, too long or too many.

    Raises:
        ValueError: naming them.
    """
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"classes: found {len(classes)}; allowed are {MAX_CLASSES}")
    report_all(
        f"classes: allowed are names of 1 to {MAX_NAME} characters",
        [f"{name!r:.60}" for name in classes if not is_name(name)],
    )
    letters = sum(map(len, classes))
    if letters > MAX_LETTERS:
        raise ValueError(f"classes: {letters} characters in all; allowed are {MAX_LETTERS}")
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    report_all("classes: allowed is every name once", [repr(name) for name in repeated])


def is_name(name: object) -> bool:
    """Return whether something is text that a file and a tokenizer take."""
    if not (isinstance(name, str) and name.strip() and len(name) <= MAX_NAME):
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # halves of characters
