"""A trial as bytes, from which it resumes: safetensors, with JSON inside.

What a trial trains is small, and its data order follows from its seeds, so a checkpoint has a few
KB: prompts, momenta, quantizers' codebooks and counters.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.training.trial import Trial

COUNTERS = "counters"
"""The tensor whose bytes are the JSON of all other state."""


def pack_trial(trial: Trial) -> bytes:
    """Return the state of a trial between two rounds."""
    about = {
        "history": trial.history,
        "tasks": trial.tasks,
        "seconds": trial.seconds,
        "rounds": [run.fit.round for run in trial.runs],
        "steps": [run.fit.step for run in trial.runs],
        "draws": [[replica.prompt.draws for replica in run.replicas] for run in trial.runs],
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in trial_tensors(trial).items()}
    text = bytearray(json.dumps(about).encode())
    return save({**tensors, COUNTERS: torch.frombuffer(text, dtype=torch.uint8)})


@torch.no_grad()
def unpack_trial(data: bytes, trial: Trial) -> None:
    """Bring a new trial of the same configuration to the state of the other.

    What follows is bit for bit what would have followed.

    Raises:
        ValueError: if the bytes are damaged, or of another trial.
    """
    try:
        tensors = load(data)
        about: dict[str, Any] = json.loads(tensors.pop(COUNTERS).numpy().tobytes())
        own = trial_tensors(trial, with_momentum=any(".momentum." in name for name in tensors))
        shapes, expected = ({k: v.shape for k, v in each.items()} for each in (tensors, own))
        if shapes != expected:
            raise ValueError(f"got tensors {shapes}; expected {expected}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        for place, run in enumerate(trial.runs):
            run.fit.round, run.fit.step = about["rounds"][place], about["steps"][place]
            for replica, draws in zip(run.replicas, about["draws"][place], strict=True):
                replica.prompt.draws = draws
            for order in run.fit.orders:  # skip the batches that were seen
                for _ in range(run.fit.step):
                    next(order)
        trial.history, trial.tasks = about["history"], about["tasks"]
        trial.seconds = about["seconds"]
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"not a checkpoint of this trial: {error}") from None


def trial_tensors(trial: Trial, with_momentum: bool = False) -> dict[str, Tensor]:
    """Return all tensors that a trial changes, by name; `with_momentum` starts momenta at zero."""
    found: dict[str, Tensor] = {}
    for place, run in enumerate(trial.runs):
        for index, replica in enumerate(run.replicas):
            prefix, prompt = f"{place}.{index}", replica.prompt
            found |= {f"{prefix}.prompt.{k}": value for k, value in prompt.state_dict().items()}
            for name, parameter in prompt.named_parameters():
                state = run.fit.optimizer.state[parameter]
                if with_momentum:
                    state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                if state.get("momentum_buffer") is not None:
                    found[f"{prefix}.momentum.{name}"] = state["momentum_buffer"]
    return found
