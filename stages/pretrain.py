"""Pretrain the embedded backbone and write its weights, its config and its model card."""

import os
import sys
from dataclasses import asdict
from statistics import mean

import torch
from tqdm import tqdm

from pipeline.clip.backbone import load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.folder import build_clip, save_clip
from pipeline.clip.pretraining.card import model_card
from pipeline.clip.pretraining.recipe import fit_clip
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


def main() -> None:
    """Run the stage."""
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(
            sys.executable, [sys.executable, "-m", "stages.pretrain"], {**os.environ, **ALLOCATOR}
        )
    params = load_params()
    config = params.pretrain
    torch.backends.cuda.enable_flash_sdp(False)  # its backward pass is slow in bf16 on CPUs
    drawings = read_drawings(paths.DRAWINGS)
    drawings = drawings[drawings["style"].isin(config.styles)].reset_index(drop=True)
    drawings_N4HW = render_drawings(drawings["svg"].tolist(), RENDER_SIZE)
    torch.manual_seed(config.seed)
    model, tokenizer = build_clip(config.open_clip_config(), config.context_length)
    losses: list[float] = []
    with tqdm(total=config.steps, desc="pretrain", unit="step") as bar:
        for loss in fit_clip(model, tokenizer, drawings, drawings_N4HW, config):
            losses.append(loss)
            bar.set_postfix(loss=f"{mean(losses[-50:]):.3f}", refresh=False)
            bar.update()
    save_clip(paths.BACKBONE, model, config.open_clip_config())
    write_card(params, mean(losses[-50:]))


def write_card(params: Params, loss: float) -> None:
    """Measure the saved weights and describe them beside their file."""
    card = model_card(
        params.pretrain,
        [asdict(row) for row in zero_shot(params)],
        loss,
        file_hash(paths.DRAWINGS),
        {package: versions()[package] for package in ("torch", "open_clip_torch")},
    )
    write_atomic(paths.MODEL_CARD, lambda path: path.write_text(card))


def zero_shot(params: Params) -> list[TestRow]:
    """Measure the saved backbone on the test poses of every task, without any prompt."""
    backbone = load_backbone(BackboneConfig(name=str(paths.BACKBONE), pretrained=None))
    emoji = params.prepare.emoji
    test_only = emoji.model_copy(update={"poses": {"train": 1, "test": emoji.poses["test"]}})
    rows = []
    for task, drawings in tqdm(read_tasks(paths.DRAWINGS, emoji).items(), desc="zero-shot"):
        manifest = build_manifest(task, drawings, test_only)
        no_views = params.features.model_copy(update={"views": 0})
        features = encode_task(backbone, manifest, "", no_views)
        captions = [features.template.format(name) for name in features.class_names]
        rows.append(zero_shot_row(features, backbone.encode_captions(captions)))
    return rows


if __name__ == "__main__":
    run_stage(main)
