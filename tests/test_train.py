"""Replicas that train together are replicas that train alone."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from reference import train_alone
from torch.nn import functional as F

from pipeline.prompts import Prompt, PromptConfig
from pipeline.text_tower import TextTower
from pipeline.train import PromptFit, Replica, TrainConfig, TrainingSet, lr_factor

NAMES = [[320], [5, 6, 7], [10, 11]]
M, N, V = 4, 12, 2


def train_config(**changed: Any) -> TrainConfig:
    """Return a short training."""
    plain = {
        "lr": 0.05,
        "steps": 12,
        "warmup_steps": 2,
        "batch_size": "all",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "epochs": 3,
    }
    return TrainConfig(**{**plain, **changed})


def training_set(tower: TextTower, n_replicas: int) -> TrainingSet:
    """Return random images; every replica was dealt half of them."""
    generator = torch.Generator().manual_seed(0)
    deals = [torch.randperm(2 * N, generator=generator)[:N] for _ in range(n_replicas)]
    views_XVE = F.normalize(torch.randn(2 * N, V, 32, generator=generator), dim=-1)
    label_X = torch.randint(len(NAMES), (2 * N,), generator=generator)
    return TrainingSet(views_XVE, label_X, torch.stack(deals), tower.pack(NAMES, M), 10.0)


def replica(tower: TextTower, rank: int | str, bits: int, lr: float, seed: int) -> Replica:
    """Return a prompt at its start."""
    config = PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=M)
    return Replica(Prompt(config, tower.embed([320, 1125, 539, 320]), seed), lr, seed)


POINTS = [("full", 16, 0.02, 1), (1, 16, 0.1, 2), (2, 2, 0.05, 3), ("full", 1, 0.2, 1)]


def only(data: TrainingSet, index: int) -> TrainingSet:
    """Return the training set of one replica."""
    one_1N = data.index_SN[index : index + 1]
    return TrainingSet(data.views_XVE, data.label_X, one_1N, data.names, data.logit_scale)


@pytest.mark.parametrize("batch_size", ["all", 5])
def test_together_equals_alone(tower: TextTower, batch_size: Any) -> None:
    config, data = train_config(batch_size=batch_size), training_set(tower, len(POINTS))
    together = PromptFit(tower, data, [replica(tower, *point) for point in POINTS], config)
    losses = torch.tensor([together.run_epoch() for _ in range(config.epochs)])
    for index, point in enumerate(POINTS):
        alone = PromptFit(tower, only(data, index), [replica(tower, *point)], config)
        own = torch.tensor([alone.run_epoch()[0] for _ in range(config.epochs)])
        torch.testing.assert_close(losses[:, index], own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            together.contexts()[index], alone.contexts()[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("rank", ["full", 1])
def test_training_is_the_loop_written_out(tower: TextTower, rank: int | str) -> None:
    config, data = train_config(batch_size=5), training_set(tower, 1)
    fit = PromptFit(tower, data, [replica(tower, rank, 16, 0.1, 7)], config)
    prompt = replica(tower, rank, 16, 0.1, 7).prompt
    generator, index_N = torch.Generator().manual_seed(7), data.index_SN[0]
    batches = []
    for _ in range(config.steps):
        rows = index_N[torch.randperm(N, generator=generator)[:5]]
        views = torch.randint(V, (5,), generator=generator)
        batches.append((data.views_XVE[rows, views], data.label_X[rows]))
    expected = train_alone(
        class_embeddings=lambda: tower(prompt()[None], data.names)[0],
        parameters=list(prompt.parameters()),
        batches=batches,
        rates=[0.1 * lr_factor(step, config) for step in range(config.steps)],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        logit_scale=data.logit_scale,
    )
    found = torch.tensor([fit.run_epoch()[0] for _ in range(config.epochs)])
    per_epoch = torch.tensor(expected).view(config.epochs, -1).mean(dim=1)
    torch.testing.assert_close(found, per_epoch, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.contexts()[0], prompt(), rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss(tower: TextTower) -> None:
    config = train_config(steps=40, epochs=4)
    for rank, bits, lr, seed in POINTS:
        point = replica(tower, rank, bits, lr, seed)
        fit = PromptFit(tower, training_set(tower, 1), [point], config)
        losses = [fit.run_epoch()[0] for _ in range(config.epochs)]
        assert losses[-1] < losses[0], (rank, bits)


def test_the_same_seed_gives_the_same_numbers(tower: TextTower) -> None:
    config, data = train_config(batch_size=5), training_set(tower, 2)

    def run(seed: int) -> tuple[list[list[float]], torch.Tensor]:
        points = [replica(tower, 2, 2, 0.1, seed), replica(tower, 2, 2, 0.1, 9)]
        fit = PromptFit(tower, data, points, config)
        return [fit.run_epoch() for _ in range(config.epochs)], fit.contexts()

    (first, context), (second, same), (other, _) = run(1), run(1), run(2)
    assert first == second
    assert torch.equal(context, same)
    assert first != other


def test_only_prompts_change(tower: TextTower) -> None:
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    fit = PromptFit(tower, training_set(tower, 1), [replica(tower, 1, 16, 0.1, 1)], train_config())
    fit.run_epoch()
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())
    assert torch.equal(fit.replicas[0].prompt.init_MD, tower.embed([320, 1125, 539, 320]))


def test_the_schedule_warms_up_then_falls_to_zero() -> None:
    config = train_config(steps=100, warmup_steps=4)
    factors = [lr_factor(step, config) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a >= b for a, b in zip(factors[4:], factors[5:], strict=False))
    assert lr_factor(52, config) == pytest.approx(0.5)
    assert lr_factor(100, config) == pytest.approx(0.0)


@pytest.mark.parametrize("epochs", [1, 3, 5, 7])
def test_epochs_divide_all_steps(tower: TextTower, epochs: int) -> None:
    config, calls = train_config(steps=7, epochs=epochs), []
    fit = PromptFit(tower, training_set(tower, 1), [replica(tower, 1, 16, 0.1, 1)], config)
    draw = fit._draw_batch
    fit._draw_batch = lambda: (calls.append(1), draw())[1]  # type: ignore[method-assign]
    for _ in range(epochs):
        before = len(calls)
        fit.run_epoch()
        assert len(calls) > before
    assert len(calls) == 7


def test_a_loss_that_is_not_finite_is_an_error(tower: TextTower) -> None:
    data = training_set(tower, 1)
    data.views_XVE.fill_(float("nan"))
    fit = PromptFit(tower, data, [replica(tower, 1, 16, 0.1, 1)], train_config())
    with pytest.raises(ArithmeticError, match="epoch 1"):
        fit.run_epoch()


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 2}, {"batch_size": 0}, {"batch_size": "some"}, {"lr": 0}, {"nesterov": True}],
)
def test_trainings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train_config(**wrong)
