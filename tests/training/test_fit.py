"""Replicas that train together are replicas that train alone."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from pipeline.clip.backbone import Backbone
from pipeline.clip.text.tower import TextTower
from pipeline.training.fit import PromptFit
from pipeline.training.schedule import step_rates
from tests.helpers.fits import (
    INIT,
    NAMES,
    POINTS,
    SHOTS,
    N,
    V,
    finish,
    replica,
    start,
    training_set,
)
from tests.helpers.reference import coop_batches, coop_schedule, encode_context, train_alone
from tests.helpers.toy import CLIP_FRAME, train_config


@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_together_equals_alone(tower: TextTower, schedule: str) -> None:
    config = train_config(schedule=schedule)
    together = start(tower, POINTS, config)
    losses = finish(together)
    for index, point in enumerate(POINTS):
        data = replace(together.data, index_SN=together.data.index_SN[index : index + 1])
        alone = PromptFit(tower, data, [replica(tower, *point)], config)
        torch.testing.assert_close(losses[:, index], finish(alone)[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            together.contexts()[index], alone.contexts()[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("rank", ["full", 1])
@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_training_is_the_loop_written_out(tower: TextTower, schedule: str, rank: int | str) -> None:
    config = train_config(schedule=schedule)
    fit = start(tower, [(rank, 16, 0.1, 7)], config)
    prompt, data = replica(tower, rank, 16, 0.1, 7).prompt, fit.data
    rates = step_rates(config, 0.1, N, SHOTS, prompt.config)
    if schedule == "coop":
        assert len(rates) == 6 * (N // 5)
        batches = coop_batches(data.index_SN[0], V, 7, 5, len(rates))
    else:
        generator = torch.Generator().manual_seed(7)
        views = [torch.randint(V, (N,), generator=generator) for _ in rates]
        batches = [(data.index_SN[0], view_N) for view_N in views]
    expected = train_alone(
        class_embeddings=lambda: tower(prompt()[None], data.names)[0],
        parameters=list(prompt.parameters()),
        batches=[(data.views_XVE[rows, views], data.label_X[rows]) for rows, views in batches],
        rates=rates,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=schedule == "fast",
        logit_scale=data.logit_scale,
    )
    per_round = torch.tensor(expected).view(config.rounds, -1).mean(dim=1)
    torch.testing.assert_close(finish(fit)[:, 0], per_round, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.contexts()[0], prompt(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kg_weight", [0.0, 8.0])
def test_full_rank_is_coop_step_by_step(backbone: Backbone, kg_weight: float) -> None:
    """Full rank, 16 bits and CoOp's schedule, against whole captions in open_clip's own tower."""
    tower, config = backbone.text, train_config(schedule="coop", kg_weight=kg_weight)
    template_KE = F.normalize(
        encode_context(backbone.model, CLIP_FRAME, tower.embed(INIT), NAMES), dim=-1
    )
    fit = start(tower, [("full", 16, 0.1, 7)], config)
    fit.data = replace(fit.data, template_KE=template_KE if kg_weight else None)
    losses: list[float] = []
    contexts: list[torch.Tensor] = []

    def watched(*batch: torch.Tensor) -> torch.Tensor:
        loss_S = PromptFit._losses(fit, *batch)
        losses.append(loss_S.item())
        return loss_S

    fit._losses = watched  # type: ignore[method-assign]  # looks on
    fit.optimizer.register_step_post_hook(
        lambda *_: contexts.append(fit.contexts()[0].detach().clone())
    )
    finish(fit)
    rates = coop_schedule(0.1, N, SHOTS, 5, epochs=6)
    batches = coop_batches(fit.data.index_SN[0], V, 7, 5, len(rates))
    context_MD, trajectory = tower.embed(INIT).requires_grad_(), []

    def class_embeddings() -> torch.Tensor:
        trajectory.append(context_MD.detach().clone())
        return encode_context(backbone.model, CLIP_FRAME, context_MD, NAMES)

    expected = train_alone(
        class_embeddings,
        [context_MD],
        [(fit.data.views_XVE[row, view], fit.data.label_X[row]) for row, view in batches],
        rates,
        config.momentum,
        config.weight_decay,
        False,
        fit.data.logit_scale,
        penalty=lambda class_KE: kg_weight * (class_KE - template_KE).square().sum(-1).mean(),
    )
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    for found_MD, expected_MD in zip(contexts, [*trajectory[1:], context_MD], strict=True):
        torch.testing.assert_close(found_MD, expected_MD, rtol=1e-4, atol=1e-4)


def test_the_pull_to_the_template_pulls(tower: TextTower) -> None:
    away = []
    for kg_weight in (0.0, 1.0, 8.0):
        fit = start(tower, [("full", 16, 0.001, 7)], train_config(40, kg_weight=kg_weight))
        names, init_MD = fit.data.names, tower.embed(INIT)
        template_KE = F.normalize(tower(init_MD[None], names)[0], dim=-1)
        fit.data = replace(fit.data, template_KE=template_KE)
        finish(fit)
        learned_KE = F.normalize(tower(fit.contexts(), names)[0], dim=-1)
        away.append((learned_KE - template_KE).square().sum().item())
    assert away[0] > 2 * away[1] > 4 * away[2]


def test_nothing_to_train_is_no_error(tower: TextTower) -> None:
    fit = start(tower, [(0, 16, 0.1, 1), (1, 16, 0.1, 1)], train_config(20))
    losses = finish(fit)
    torch.testing.assert_close(losses[0, 0], losses[-1, 0], rtol=0.2, atol=0)
    assert torch.equal(fit.replicas[0].prompt(), tower.embed(INIT))
    assert losses[-1, 1] < losses[0, 1]
    alone = start(tower, [(0, 16, 0.1, 1)], train_config(20))
    assert alone.n_steps == alone.config.rounds
    assert len(finish(alone)) == alone.step


@pytest.mark.usefixtures("emulated_bfloat16")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_training_lowers_the_loss(tower: TextTower, schedule: str, precision: str) -> None:
    config = train_config(
        40,
        schedule=schedule,
        precision=precision,
        rounds=4,
        coop={"epochs": 10, "batch_size": 4},
    )
    losses = finish(start(tower, POINTS, config))
    for point, first, last in zip(POINTS, losses[0], losses[-1], strict=True):
        assert last < first, point


@pytest.mark.usefixtures("emulated_bfloat16")
@pytest.mark.parametrize(("points", "rounds"), [(POINTS, 6), (POINTS[:2], 3)])
@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_bfloat16_begins_as_float32_does(
    tower: TextTower, schedule: str, points: list[Any], rounds: int
) -> None:
    """For a round of four steps; of two where codes that flip would make them part."""
    configs = (
        train_config(schedule=schedule, precision=precision, rounds=rounds)
        for precision in ("float32", "bfloat16")
    )
    whole, half = (torch.tensor(start(tower, points, config).run_round()) for config in configs)
    torch.testing.assert_close(half, whole, rtol=3e-2, atol=0)
    assert not torch.allclose(half, whole, rtol=1e-5, atol=0), "it did run in bfloat16"


def test_the_same_seed_gives_the_same_numbers(tower: TextTower) -> None:
    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        points = [(2, 2, 0.1, seed), (2, 2, 0.1, 9)]
        fit = start(tower, points, train_config(schedule="coop"))
        return finish(fit), fit.contexts()

    (first, context), (second, same), (other, _) = run(1), run(1), run(2)
    assert torch.equal(first, second)
    assert torch.equal(context, same)
    assert not torch.equal(first, other)


def test_only_prompts_change(tower: TextTower) -> None:
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    fit = start(tower, [(1, 16, 0.1, 1)], train_config())
    fit.run_round()
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())
    assert torch.equal(fit.replicas[0].prompt.init_MD, tower.embed(INIT))


@pytest.mark.parametrize("rounds", [1, 3, 5, 7])
@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_rounds_divide_all_steps(tower: TextTower, schedule: str, rounds: int) -> None:
    coop = {"epochs": 7, "batch_size": 32}
    config = train_config(7, schedule=schedule, rounds=rounds, coop=coop)
    fit = start(tower, [(1, 16, 0.1, 1)], config)
    steps: Counter[int] = Counter()
    fit.optimizer.register_step_post_hook(lambda *_: steps.update([fit.round]))
    finish(fit)
    assert sum(steps.values()) == 7
    assert sorted(steps) == list(range(1, rounds + 1))
    assert max(steps.values()) - min(steps.values()) <= 1


@pytest.mark.parametrize(("shots", "n_steps"), [(1, 50 * 2), (4, 100 * 2), (16, 200 * 2)])
def test_coop_counts_the_shots(tower: TextTower, shots: int, n_steps: int) -> None:
    config = train_config(schedule="coop", coop={"epochs": "auto", "batch_size": 5})
    data = replace(training_set(tower, 1), shots=shots)
    fit = PromptFit(tower, data, [replica(tower, 1, 16, 0.1, 1)], config)
    assert fit.n_steps == n_steps


def test_a_loss_that_is_not_finite_is_an_error(tower: TextTower) -> None:
    fit = start(tower, [(1, 16, 0.1, 1)], train_config())
    fit.data.views_XVE.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="the loss is not finite"):
        fit.run_round()


def test_a_prompt_that_the_last_step_spoiled_is_an_error(tower: TextTower) -> None:
    fit = start(tower, [(1, 16, 0.1, 1), (1, 16, 0.1, 2)], train_config())
    step = fit.optimizer.step

    def spoil() -> None:
        step()
        with torch.no_grad():
            next(iter(fit.replicas[1].prompt.parameters())).view(-1)[0] = float("inf")

    fit.optimizer.step = spoil  # type: ignore[method-assign, assignment]  # of this optimizer
    fit.n_steps = fit.config.rounds  # one step a round: its loss is still finite
    with pytest.raises(ArithmeticError, match="the prompt is not finite: .* of seed 2"):
        fit.run_round()


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"precision": "float16"}, {"momentum": 1.0}, {"lr": 0}, {"nesterov": True}],
)
def test_trainings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train_config(**wrong)
