"""Example predictions are those of the measurement, chosen by position alone."""

import io

import torch
from PIL import Image

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import accuracy
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.report.examples import (
    PER_KIND,
    THUMB,
    Example,
    first_of_each,
    group,
    predict,
    thumbnail,
)
from pipeline.training.protocols import targets
from pipeline.training.refit import BASE_TO_NEW
from pipeline.training.task_run import measure_prompts


def stored(text: TextSide) -> StoredPrompt:
    """Return a prompt as it is before training, a little moved."""
    prompt = Prompt(
        PromptConfig(init="a photo of a", rank="full", bits=16, n_ctx=4), text.init_MD(4), 1, 0
    )
    with torch.no_grad():
        for value in prompt.parameters():
            value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return prompt.store()


def test_answers_are_those_that_were_measured(text: TextSide, features: TaskFeatures) -> None:
    prompt, caption_KE = stored(text), torch.randn(len(features.class_names), 32)
    for target in targets(BASE_TO_NEW, features.name, {features.name: features}):
        said = predict(text, features, prompt, caption_KE, target)
        where = features, [prompt], "test", target.classes, target.domains
        (measured,) = measure_prompts(text, *where)
        assert sum(one.is_right for one in said) / len(said) == measured
        image_NE, label_N = features.select("test", target.classes, target.domains)
        zero = accuracy(image_NE, caption_KE[list(target.classes)], label_N)
        assert sum(one.zero_shot == one.truth for one in said) / len(said) == zero
        names = {features.class_names[label] for label in target.classes}
        assert {one.answer for one in said} <= names
        assert all(1 / len(names) <= one.probability <= 1 for one in said)
        assert [one.row for one in said] == sorted(one.row for one in said)


def example(row: int, truth: str, answer: str) -> Example:
    return Example(row, truth, answer, 0.5, answer)


def test_the_first_of_each_kind_are_shown_one_per_class() -> None:
    found = [example(i, f"c{i // 2}", "c0" if i % 2 else f"c{i // 2}") for i in range(40)]
    right, wrong = (first_of_each(found, kind) for kind in (True, False))
    assert [one.row for one in right] == [0, 2, 4, 6, 8, 10]
    assert [one.row for one in wrong] == [3, 5, 7, 9, 11, 13]
    assert len(right) == PER_KIND


def test_only_what_is_shown_is_read(features: TaskFeatures) -> None:
    found = [example(i, "a", "a" if i else "b") for i in range(9)]
    (target, *_) = targets(BASE_TO_NEW, features.name, {features.name: features})
    read: list[int] = []

    def picture(one: Example) -> Example:
        read.append(one.row)
        return one

    made = group(target, found, picture)
    assert (made.n_images, made.n_right, made.title) == (9, 8, "base classes")
    assert read == [1, 0]


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    for size, wanted in (((400, 200), (THUMB, THUMB // 2)), ((30, 20), (30, 20))):
        picture = Image.new("RGB", size, "red")
        assert Image.open(io.BytesIO(thumbnail(picture))).size == wanted
        assert picture.size == size
