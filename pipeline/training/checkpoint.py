"""A trial as bytes, so that it goes on where it stopped: safetensors, with JSON inside.

What a trial trains is small, and its data order follows from its seeds, so a checkpoint holds
prompts, momenta, quantizers' codebooks and counters, and nothing else: a few KB.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.training.fit import PromptFit
from pipeline.training.trial import Trial

COUNTERS = "counters"
"""The tensor whose bytes are the JSON of everything that is no tensor."""


def pack_trial(trial: Trial) -> bytes:
    """Return a trial between two rounds."""
    tensors: dict[str, Tensor] = {}
    for place, run in enumerate(trial.runs):
        tensors |= {f"{place}.{name}": value for name, value in fit_tensors(run.fit).items()}
    about = {
        "history": trial.history,
        "tasks": trial.tasks,
        "seconds": trial.seconds,
        "rounds": [run.fit.round for run in trial.runs],
        "steps": [run.fit.step for run in trial.runs],
        "draws": [[replica.prompt.draws for replica in run.replicas] for run in trial.runs],
    }
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = bytearray(json.dumps(about).encode())
    return save({**plain, COUNTERS: torch.frombuffer(text, dtype=torch.uint8)})


def unpack_trial(data: bytes, trial: Trial) -> None:
    """Bring a trial that was just built, of the same configuration, to where the other stopped.

    What follows is bit for bit what would have followed.

    Raises:
        ValueError: if the bytes are damaged, or of another trial.
    """
    try:
        tensors = load(data)
        about: dict[str, Any] = json.loads(tensors.pop(COUNTERS).numpy().tobytes())
        for place, run in enumerate(trial.runs):
            own = {
                name.removeprefix(f"{place}."): value
                for name, value in tensors.items()
                if name.startswith(f"{place}.")
            }
            load_fit(run.fit, own, about["rounds"][place], about["steps"][place])
            for replica, draws in zip(run.replicas, about["draws"][place], strict=True):
                replica.prompt.draws = draws
        trial.history, trial.tasks = about["history"], about["tasks"]
        trial.seconds = about["seconds"]
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"not a checkpoint of this trial: {error}") from None


def fit_tensors(fit: PromptFit) -> dict[str, Tensor]:
    """Return all tensors that a fit changes, by name."""
    found: dict[str, Tensor] = {}
    for place, replica in enumerate(fit.replicas):
        state = replica.prompt.state_dict()
        found |= {f"{place}.prompt.{name}": value for name, value in state.items()}
        for name, parameter in replica.prompt.named_parameters():
            momentum = fit.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"{place}.momentum.{name}"] = momentum
    return found


def load_fit(fit: PromptFit, tensors: dict[str, Tensor], n_rounds: int, n_steps: int) -> None:
    """Set what `fit_tensors` returned, and pass the batches that were seen."""
    for place, replica in enumerate(fit.replicas):
        below = f"{place}.prompt."
        state = {k.removeprefix(below): v for k, v in tensors.items() if k.startswith(below)}
        replica.prompt.load_state_dict(state)
        for name, parameter in replica.prompt.named_parameters():
            momentum = tensors.get(f"{place}.momentum.{name}")
            if momentum is not None:
                fit.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
    fit.round, fit.step = n_rounds, n_steps
    with torch.no_grad():
        for order in fit.orders:
            for _ in range(n_steps):
                next(order)
