"""Pretrain the embedded backbone and write its weights, its config and its model card."""

import os
import sys
from collections import deque
from dataclasses import asdict
from statistics import mean

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from pipeline.clip.backbone import load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.folder import build_clip, save_clip
from pipeline.clip.images import WEIGHTS
from pipeline.clip.pretraining.card import model_card
from pipeline.clip.pretraining.recipe import Pretraining
from pipeline.core import paths
from pipeline.core.files import write_atomic
from pipeline.core.hashes import file_hash
from pipeline.core.provenance import versions
from pipeline.core.stage import run_stage
from pipeline.data.datasets.emoji import build_manifest, read_drawings, read_tasks, render_drawings
from pipeline.features.extract import encode_task
from pipeline.params import Params, load_params
from pipeline.sweep.ray_cluster import ALLOCATOR
from pipeline.training.records import TestRow
from pipeline.training.refit import zero_shot_row

RENDER_SIZE = 64
CHECKPOINT_STEPS = 25


def main() -> None:
    """Run the stage."""
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(
            sys.executable, [sys.executable, "-m", "stages.pretrain"], {**os.environ, **ALLOCATOR}
        )
    params = load_params()
    config = params.pretrain
    drawings = read_drawings(paths.DRAWINGS)
    drawings = drawings[drawings["style"].isin(config.styles)].reset_index(drop=True)
    drawings_N4HW = render_drawings(drawings["svg"].tolist(), RENDER_SIZE)
    torch.manual_seed(config.seed)
    model, tokenizer = build_clip(config.open_clip_config(), config.context_length)
    if config.start is not None:
        model.load_state_dict(load_file(config.start / WEIGHTS))
    training = Pretraining(model, tokenizer, drawings, drawings_N4HW, config)
    loss = run_steps(training)
    training.finish()
    save_clip(paths.BACKBONE, model, config.open_clip_config())
    write_card(params, loss)
    paths.PRETRAIN_CHECKPOINT.unlink(missing_ok=True)


def run_steps(training: Pretraining) -> float:
    """Train, from the last checkpoint if there is one, and return the mean loss of the end.

    A checkpoint belongs to its recipe; only the number of steps may differ, so that a run can be
    made longer.
    """
    path, config = paths.PRETRAIN_CHECKPOINT, training.config
    recipe = config.model_dump(mode="json", exclude={"steps"})
    losses: deque[float] = deque(maxlen=50)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] == recipe:
            training.load_state(saved["state"])
            losses.extend(saved["losses"])
    with tqdm(total=config.steps, initial=training.step, desc="pretrain", unit="step") as bar:
        while training.step < config.steps:
            losses.append(training.run_step())
            bar.set_postfix(loss=f"{mean(losses):.3f}", refresh=False)
            bar.update()
            if training.step % CHECKPOINT_STEPS == 0:
                content = {"recipe": recipe, "losses": list(losses), "state": training.state()}
                write_atomic(path, lambda temporary: torch.save(content, temporary))  # noqa: B023
    return mean(losses)


def write_card(params: Params, loss: float) -> None:
    """Measure the saved weights and describe them beside their file."""
    rows = zero_shot(params)
    card = model_card(
        params.pretrain,
        params.prepare.emoji.tasks,
        params.prompt.init,
        [asdict(general) for general, _ in rows],
        [asdict(own) for _, own in rows],
        loss,
        file_hash(paths.DRAWINGS),
        {package: versions()[package] for package in ("torch", "open_clip_torch")},
    )
    write_atomic(paths.MODEL_CARD, lambda path: path.write_text(card))


def zero_shot(params: Params) -> list[tuple[TestRow, TestRow]]:
    """Measure general and own words on the test poses of every task, without any prompt."""
    backbone = load_backbone(BackboneConfig(name=str(paths.BACKBONE), pretrained=None))
    emoji = params.prepare.emoji
    test_only = emoji.model_copy(update={"poses": {"train": 1, "test": emoji.poses["test"]}})
    rows = []
    for task, drawings in tqdm(read_tasks(paths.DRAWINGS, emoji).items(), desc="zero-shot"):
        manifest = build_manifest(task, drawings, test_only)
        no_views = params.features.model_copy(update={"views": 0})
        features = encode_task(backbone, manifest, "", no_views)
        general, own = (
            zero_shot_row(
                features,
                backbone.encode_captions([words.format(name) for name in manifest.class_names]),
            )
            for words in (f"{params.prompt.init} {{}}.", manifest.template)
        )
        rows.append((general, own))
    return rows


if __name__ == "__main__":
    run_stage(main)
