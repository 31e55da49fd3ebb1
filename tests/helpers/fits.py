"""Small fits: random images, a few prompts."""

import traceback
from collections import Counter
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.clip.text.tower import TextTower
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.prompt import Prompt
from pipeline.training.config import TrainConfig
from pipeline.training.fit import PromptFit, Replica, TrainingSet

NAMES = [[320], [5, 6, 7], [10, 11]]
INIT = [320, 1125, 539, 320]
M, N, V = 4, 12, 2
POINTS = [("full", 16, 0.02, 1), (1, 16, 0.1, 2), (2, 2, 0.05, 3), ("full", 1, 0.2, 1)]
SHOTS = 4
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh"}


def training_set(tower: TextTower, n_replicas: int) -> TrainingSet:
    """Return random images, each in similar views; every replica was dealt half of them."""
    generator = torch.Generator().manual_seed(0)
    deals = [torch.randperm(2 * N, generator=generator)[:N] for _ in range(n_replicas)]
    image_X1E = torch.randn(2 * N, 1, 32, generator=generator)
    noise_XVE = 0.1 * torch.randn(2 * N, V, 32, generator=generator)
    views_XVE = F.normalize(image_X1E + noise_XVE, dim=-1)
    label_X = torch.randint(len(NAMES), (2 * N,), generator=generator)
    names, device = tower.pack(NAMES, M), tower.positional_embedding.device
    return TrainingSet(
        views_XVE.to(device), label_X.to(device), torch.stack(deals), names, 10.0, SHOTS
    )


def replica(tower: TextTower, rank: int | str, bits: int, lr: float, seed: int) -> Replica:
    """Return a prompt at its start."""
    config = PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=M)
    return Replica(Prompt(config, tower.embed(INIT), seed), lr, seed)


def start(tower: TextTower, points: list[Any], config: TrainConfig) -> PromptFit:
    """Return a fit of some points, nothing trained yet."""
    replicas = [replica(tower, *point) for point in points]
    return PromptFit(tower, training_set(tower, len(points)), replicas, config)


def finish(fit: PromptFit) -> torch.Tensor:
    """Train all rounds and return the losses, one row a round."""
    return torch.tensor([fit.run_round() for _ in range(fit.config.rounds)])


class Waits(TorchDispatchMode):
    """Counts, by line of the pipeline, what makes the host wait for a GPU, also without one.

    A value is read back, a mask is turned into indices, or Python's numbers become a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in WAITING or any(i is not None and i.dtype == torch.bool for i in indices):
            lines = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()]
            own = [line for line in lines if "/pipeline/" in line]
            self.places[f"{name} {' '.join(own[-2:])}"] += 1
        return func(*args, **(kwargs or {}))
