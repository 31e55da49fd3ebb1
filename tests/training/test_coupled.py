"""Prompts of both towers: counted, coupled, trained and stored as MaPLe says."""

import io
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.clip.backbone import Backbone, wrap_model
from pipeline.clip.encoders import TextSide
from pipeline.clip.folder import build_clip
from pipeline.data.classes import split_base_new
from pipeline.data.manifest import Manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.extract import encode_task
from pipeline.features.loader import with_pictures
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.coupling import couple
from pipeline.prompts.file import load_prompt, save_prompt
from pipeline.prompts.prompt import Prompt, start_coupling
from pipeline.training.pictures import encode_beside
from pipeline.training.task_run import Point, TaskRun, draw_images
from tests.helpers.reference import (
    coop_batches,
    coop_schedule,
    encode_context,
    encode_prompted,
    train_alone,
)
from tests.helpers.toy import CLIP_FRAME, train_config

CONFIG = PromptConfig(init="a photo of a", rank="full", bits=16, n_ctx=2, depth=2)
FEATURES = FeaturesConfig(
    views=1, crop_scale=(0.5, 1.0), flip=False, batch_size=16, workers=0, seed=1
)
CLASSES = [0, 1, 2]
SHOTS = 2
M, D, W = 2, 64, 64


@pytest.fixture(scope="module")
def things(backbone: Backbone, manifest: Manifest) -> TaskFeatures:
    """The tiny drawings, encoded, with their pixels."""
    features = encode_task(backbone, manifest, "hash", FEATURES)
    return with_pictures(features, backbone, manifest, FEATURES)


@pytest.fixture(scope="module")
def both(backbone: Backbone, things: TaskFeatures) -> TextSide:
    """Both towers, and the tokens of the drawings' names."""
    return backbone.text_side("a photo of a", things.class_names, with_vision=True)


def away(prompt: Prompt) -> Prompt:
    """Move all factors away from their start."""
    with torch.no_grad():
        for factor in prompt.factors.values():
            factor += 0.1 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(3))
    return prompt


def test_the_papers_size() -> None:
    context_MD = torch.zeros(2, 512)
    drawn = start_coupling(9, context_MD, 768, torch.Generator())
    n_parameters = context_MD.numel() + sum(values.numel() for values in drawn.values())
    assert n_parameters == 9 * 2 * 512 + 9 * 768 * 513 == 3_555_072


def test_vision_prompts_are_linear_in_text_prompts() -> None:
    prompt = away(Prompt(CONFIG.model_copy(update={"depth": 3}), torch.randn(M, D), 1, W))
    inputs, factors = prompt.inputs(), prompt.factors
    text = [factors["context_MD"], *factors["deep_JMD"]]
    assert inputs.vision_JMW.shape == (3, M, W)
    for i, text_MD in enumerate(text):
        for m in range(M):
            expected_W = factors["coupling_JWD"][i] @ text_MD[m] + factors["bias_JW"][i]
            torch.testing.assert_close(inputs.vision_JMW[i, m], expected_W)
    shallow = couple(torch.randn(M, D), {"context_MD": torch.randn(M, D)})
    assert shallow.deep_IMD is None
    assert shallow.vision_JMW is None


@pytest.mark.parametrize(
    ("changed", "message"), [({"rank": 1}, "depth 2"), ({"residual": {"hidden": 4}}, "depth 2")]
)
def test_points_that_do_not_exist(changed: dict[str, object], message: str) -> None:
    assert message in PromptConfig(**{**CONFIG.model_dump(), **changed}).infeasible()


def test_pixels_are_the_pictures_exactly(
    backbone: Backbone, manifest: Manifest, things: TaskFeatures
) -> None:
    pictures = things.pictures
    for row in (0, 5, 17):
        source = io.BytesIO(manifest.rows["image"].iloc[row]["bytes"])
        expected_3HW = backbone.transform(Image.open(source))
        found_3HW = pictures.normalized(pictures.pixel_N3HW[row], torch.device("cpu"))
        torch.testing.assert_close(found_3HW, expected_3HW, rtol=0, atol=1e-6)
    views = pictures.normalized(pictures.view_NV3HW.flatten(0, 1), torch.device("cpu"))
    features = backbone.encode_images(views).unflatten(0, pictures.view_NV3HW.shape[:2])
    torch.testing.assert_close(features, things.views_NVE, rtol=0, atol=1e-5)


def test_training_is_the_loop_written_out_step_by_step(
    backbone: Backbone, both: TextSide, things: TaskFeatures
) -> None:
    """Against open_clip's own towers, one image and one class a pass."""
    config = train_config(schedule="coop", coop={"epochs": 3, "batch_size": 2}, rounds=1)
    run = TaskRun(both, things, [Point(CONFIG, 0.01, 7)], config, CLASSES, SHOTS)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    losses: list[float] = []
    losses_of = run.fit._losses

    def watched(*batch: torch.Tensor) -> torch.Tensor:
        loss_S = losses_of(*batch)
        losses.append(loss_S.item())
        return loss_S

    run.fit._losses = watched  # type: ignore[method-assign]  # looks on
    run.fit.run_round()
    prompt, data = Prompt(CONFIG, both.init_MD(M), 7, W), run.fit.data
    names = [both.name_tokens[things.class_names[label]] for label in CLASSES]
    row_N, label_N = things.training_rows(CLASSES)
    drawn_N = torch.tensor(draw_images(things, CLASSES, SHOTS, 7))
    rates = coop_schedule(0.01, data.index_SN.shape[1], SHOTS, 2, epochs=3)
    batches = coop_batches(drawn_N, data.views_XVE.shape[1], 7, 2, len(rates))

    class Batch:
        """Images of a step: encoded when they are multiplied, beside the prompts of the step."""

        def __init__(self, rows: torch.Tensor, views: torch.Tensor) -> None:
            pixels = things.pictures.view_NV3HW[row_N[rows], views]
            self.pictures = things.pictures.normalized(pixels, torch.device("cpu"))

        def __rmul__(self, scale: float) -> torch.Tensor:
            vision_JMW = prompt.inputs().vision_JMW
            encoded_BE = encode_prompted(backbone.model.visual, self.pictures, vision_JMW)
            return scale * F.normalize(encoded_BE, dim=-1)

    def class_embeddings() -> torch.Tensor:
        inputs = prompt.inputs()
        return encode_context(
            backbone.model, CLIP_FRAME, inputs.context_MD, names, list(inputs.deep_IMD)
        )

    expected = train_alone(
        class_embeddings,
        list(prompt.parameters()),
        [(Batch(rows, views), label_N[rows]) for rows, views in batches],
        rates,
        config.momentum,
        config.weight_decay,
        False,
        data.logit_scale,
    )
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    for name, factor in prompt.factors.items():
        found = run.replicas[0].prompt.factors[name]
        torch.testing.assert_close(found, factor, rtol=1e-4, atol=1e-4)
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("bits", [4, 16])
def test_replicas_train_together_as_alone_and_learn(
    both: TextSide, things: TaskFeatures, bits: int
) -> None:
    prompt = CONFIG.model_copy(update={"bits": bits})
    config = train_config(schedule="coop", coop={"epochs": 18, "batch_size": 4})
    points = [Point(prompt, 0.01, seed) for seed in (1, 2)]
    together = TaskRun(both, things, points, config, CLASSES, SHOTS)
    losses = torch.tensor([together.fit.run_round() for _ in range(3)])
    assert (losses[-1] < losses[0]).all()
    for index, point in enumerate(points):
        alone = TaskRun(both, things, [point], config, CLASSES, SHOTS)
        found = torch.tensor([alone.fit.run_round() for _ in range(3)])[:, 0]
        torch.testing.assert_close(found, losses[:, index], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 16])
def test_stored_prompts_are_what_is_measured(
    backbone: Backbone, both: TextSide, things: TaskFeatures, bits: int, tmp_path: Path
) -> None:
    prompt = away(Prompt(CONFIG.model_copy(update={"bits": bits}), both.init_MD(M), 1, W))
    stored = prompt.store()
    if bits == 4:
        n_parameters = sum(p.numel() for p in prompt.parameters())
        n_codebooks = len(prompt.factors)
        assert stored.size_bytes == n_parameters // 2 + n_codebooks * 16 * 2
    save_prompt(tmp_path / "deep.prompt", stored, "f", {})
    loaded, _ = load_prompt(tmp_path / "deep.prompt", "f")
    base, _ = split_base_new(range(len(things.class_names)))
    row_n, label_n = things.rows("test", base, things.shot_domains)
    inputs = [both.inputs([one]) for one in (stored, loaded)]
    images = [encode_beside(both.vision, things.pictures, row_n, i.vision_JMW)[0] for i in inputs]
    assert torch.equal(*images)
    pictures = things.pictures.normalized(things.pictures.pixel_N3HW[row_n], torch.device("cpu"))
    expected = encode_prompted(backbone.model.visual, pictures, inputs[0].vision_JMW[0])
    torch.testing.assert_close(images[0], F.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)
    names = [both.name_tokens[things.class_names[label]] for label in base]
    class_KE = encode_context(
        backbone.model,
        CLIP_FRAME,
        inputs[0].context_MD[0],
        names,
        list(inputs[0].deep_IMD[0]),
    )
    right_n = (images[0] @ F.normalize(class_KE, dim=-1).T).argmax(-1) == label_n
    run = TaskRun(both, things, [Point(CONFIG, 0.01, 1)], train_config(4), CLASSES, SHOTS)
    run.replicas[0].prompt.load_state_dict(prompt.state_dict(), strict=False)
    if bits == 16:
        found = run.measure("test", base, things.shot_domains)
        assert found == [pytest.approx(right_n.float().mean().item())]


def test_more_layers_than_the_towers_have_are_refused(both: TextSide, text: TextSide) -> None:
    both.check_depth(2)
    with pytest.raises(ValueError, match="prompt.depth: got 3; expected 0 to 2"):
        both.check_depth(3)
    with pytest.raises(ValueError, match="the image tower in 0"):
        text.check_depth(1)


def test_the_papers_prompt_trains_on_the_papers_towers(manifest: Manifest) -> None:
    """Nine layers, two tokens, ViT-B/16 on small pictures: every factor gets a gradient."""
    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"]["image_size"] = 32
    model, tokenizer = build_clip(config, 77)
    model.eval().requires_grad_(False)
    backbone = wrap_model(model, tokenizer, torch.device("cpu"))
    few = (
        manifest.rows[manifest.rows["label"].isin([0, 1, 2])]
        .groupby(["label", "split", "domain"])
        .head(1)
    )
    small = replace(manifest, rows=few.reset_index(drop=True))
    plain = FEATURES.model_copy(update={"views": 0})
    features = with_pictures(encode_task(backbone, small, "hash", plain), backbone, small, plain)
    text = backbone.text_side("a photo of a", features.class_names, with_vision=True)
    prompt = CONFIG.model_copy(update={"depth": 9, "bits": 4})
    train = train_config(schedule="coop", coop={"epochs": 1, "batch_size": 2}, rounds=1)
    run = TaskRun(text, features, [Point(prompt, 0.0035, 1)], train, [0, 1], 1)
    before = {k: v.detach().clone() for k, v in run.replicas[0].prompt.named_parameters()}
    run.fit.run_round()
    assert sum(value.numel() for value in before.values()) == 3_555_072
    for name, parameter in run.replicas[0].prompt.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert run.stored()[0].size_bytes == 3_555_072 // 2 + 4 * 16 * 2
    assert 0 <= run.measure("test", [0, 1], features.shot_domains)[0] <= 1
