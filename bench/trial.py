"""A whole trial: ours against a CoOp-style loop with the image tower in it.

Shapes: N images, V views, K classes, M context tokens, E joint embedding width.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional as F

from bench.coop_style import CoopLoop
from bench.timing import in_turn
from bench.towers import N_STEPS_COOP, imagenet_names
from pipeline.clip.text.tower import TextTower
from pipeline.params import load_params
from pipeline.prompts.context import init_tokens
from pipeline.prompts.prompt import Prompt
from pipeline.training.fit import PromptFit, Replica, TrainingSet

N_CLASSES, SHOTS, N_CTX, BATCH = 50, 16, 4, 32
TEMPLATE = [320, 1125, 539, 320]
"""Token ids of "a photo of a"."""


def our_fit(tower: TextTower, schedule: str, n_steps: int) -> PromptFit:
    """Return CoOp's task as our trials run it, on random features; rounds of `n_steps`."""
    params = load_params()
    features_NVE = F.normalize(torch.randn(N_CLASSES * SHOTS, 1, 512), dim=-1)
    data = TrainingSet(
        views_XVE=features_NVE,
        label_X=torch.arange(N_CLASSES).repeat_interleave(SHOTS),
        index_SN=torch.arange(len(features_NVE))[None],
        names=tower.pack(imagenet_names(N_CLASSES), N_CTX),
        logit_scale=100.0,
        shots=SHOTS,
    )
    config = params.prompt.model_copy(update={"n_ctx": N_CTX})
    prompt = Prompt(config, tower.embed(init_tokens(TEMPLATE, N_CTX)), seed=1)
    train = params.train.model_copy(update={"schedule": schedule, "rounds": 1})
    fit = PromptFit(tower, data, [Replica(prompt, train.lr, 1)], train)
    train = train.model_copy(update={"rounds": max(1, fit.n_steps // n_steps)})
    return PromptFit(tower, data, [Replica(prompt, train.lr, 1)], train)


def trial(model: Any, tower: TextTower, repeats: int = 5) -> dict[str, float]:
    """Time steps of both loops in turn, and one epoch's worth of encoding for ours.

    The CoOp-style loop would run for hours: its time is that of a step times the steps of its
    schedule. Ours is extrapolated in the same way.
    """
    images_B3HW = torch.randn(BATCH, 3, 224, 224)
    init_MD = tower.embed(init_tokens(TEMPLATE, N_CTX))
    loop = CoopLoop(model, imagenet_names(N_CLASSES), init_MD, images_B3HW)
    ours = our_fit(tower, "coop", 4)
    fast = our_fit(tower, "fast", 4)
    batches = iter(range(10**9))

    def encode() -> None:
        next(batches)
        with torch.no_grad():
            model.encode_image(images_B3HW)

    def rounds(fit: PromptFit) -> float:
        before, start = fit.step, time.perf_counter()
        fit.run_round()
        return (time.perf_counter() - start) / (fit.step - before)

    steps: dict[str, list[float]] = {"coop": [], "fast": []}
    seconds = in_turn(
        {
            "loop": loop.step,
            "coop": lambda: steps["coop"].append(rounds(ours)),
            "fast": lambda: steps["fast"].append(rounds(fast)),
            "encode": encode,
        },
        repeats=repeats,
    )
    middle = {name: sorted(values)[len(values) // 2] for name, values in steps.items()}
    theirs = N_STEPS_COOP * seconds["loop"]
    encoding = N_CLASSES * SHOTS / BATCH * seconds["encode"]
    assert ours.n_steps == N_STEPS_COOP, "the same schedule"
    return {
        "coop_loop_step_s": seconds["loop"],
        "our_step_s": middle["coop"],
        "coop_loop_trial_hours": theirs / 3600,
        "our_trial_at_coop_schedule_s": N_STEPS_COOP * middle["coop"],
        "our_trial_at_fast_schedule_s": fast.n_steps * middle["fast"],
        "encoding_once_s": encoding,
        "trial_vs_coop_loop": theirs / (N_STEPS_COOP * middle["coop"]),
        "trial_with_encoding_vs_coop_loop": theirs / (N_STEPS_COOP * middle["coop"] + encoding),
        "time_to_accuracy_vs_coop": theirs / (fast.n_steps * middle["fast"]),
        "time_to_accuracy_with_encoding_vs_coop": theirs
        / (fast.n_steps * middle["fast"] + encoding),
    }
