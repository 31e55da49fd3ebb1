"""Slow, obvious oracles: each does the plain thing, one item at a time."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def encode_context(
    model: Any,
    frame: Any,
    context_MD: Tensor,
    names: list[list[int]],
    deep_IMD: Sequence[Tensor] = (),
) -> Tensor:
    """Class embeddings `[K, E]` of `SOS context name EOS pad`, all positions, one class a pass.

    Runs open_clip's own code on whole captions (`encode_text` of a model, or a text tower), and
    puts the context in place of the word embeddings that follow SOS. Deep prompts take the place
    of its states before block 1, 2, ...
    """
    text = getattr(model, "text", model)
    encode = getattr(model, "encode_text", model)
    start, stop = len(frame.sos), len(frame.sos) + len(context_MD)

    def put_context(_module: Any, _ids: Any, embeddings_1LD: Tensor) -> Tensor:
        before, after = embeddings_1LD[:, :start], embeddings_1LD[:, stop:]
        return torch.cat([before, context_MD[None], after], dim=1)

    hooks = [text.token_embedding.register_forward_hook(put_context)]
    for block, prompt_MD in zip(text.transformer.resblocks[1:], deep_IMD, strict=False):
        hooks.append(block.register_forward_pre_hook(put_before(prompt_MD, start)))
    out = []
    try:
        for name in names:
            other = frame.sos[0] if frame.sos else name[0]
            ids = [*frame.sos, *[other] * len(context_MD), *name, *frame.eos]
            ids += [frame.pad] * (text.context_length - len(ids))
            encoded = encode(torch.tensor([ids]))  # CoCa's text tower returns its tokens, too
            out.append((encoded[0] if isinstance(encoded, tuple) else encoded)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(out)


def put_before(prompt_MD: Tensor, start: int) -> Callable[[Any, tuple[Tensor]], tuple[Tensor]]:
    """A hook that puts a prompt in place of M positions of what enters a module, `[1, L, D]`."""
    stop = start + len(prompt_MD)

    def put(_module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        before, after = inputs[0][:, :start], inputs[0][:, stop:]
        return (torch.cat([before, prompt_MD[None], after], dim=1),)

    return put


def encode_prompted(visual: Any, pictures_B3HW: Tensor, prompt_JMW: Tensor) -> Tensor:
    """Image embeddings `[B, E]` with deep vision prompts, one image a pass.

    Runs open_clip's own vision transformer. The first prompts are appended to what enters
    `ln_pre`, the others take their place before block 1, 2, ...
    """
    n_tokens = len(visual.positional_embedding)
    blocks = visual.transformer.resblocks
    hooks = [
        module.register_forward_pre_hook(put_before(prompt_MW, n_tokens))
        for module, prompt_MW in zip([visual.ln_pre, *blocks[1:]], prompt_JMW, strict=False)
    ]
    try:
        encoded = [visual(picture_3HW[None]) for picture_3HW in pictures_B3HW]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([out[0] if isinstance(out, tuple) else out for out in encoded])


def squared_error(values: Sequence[float], centroids: Sequence[float]) -> float:
    """The sum of each value's squared distance to its closest centroid."""
    return sum(min((value - centroid) ** 2 for centroid in centroids) for value in values)


def best_clustering(values: Sequence[float], size: int) -> float:
    """The least squared error of any split of the sorted values into at most `size` runs."""
    ordered = sorted(values)
    best = math.inf
    for cuts in combinations_with_replacement(range(len(ordered) + 1), size - 1):
        edges = [0, *cuts, len(ordered)]
        runs = [ordered[i:j] for i, j in zip(edges, edges[1:], strict=False) if i < j]
        best = min(best, sum((x - sum(run) / len(run)) ** 2 for run in runs for x in run))
    return best


def lloyd_1d(
    values: Sequence[float], centroids: Sequence[float], rounds: int = 1000
) -> list[float]:
    """Lloyd's algorithm value by value; ties go to the lower centroid, empty clusters stay."""
    current = sorted(centroids)
    for _ in range(rounds):
        members: list[list[float]] = [[] for _ in current]
        for value in values:
            distances = [abs(value - centroid) for centroid in current]
            members[distances.index(min(distances))].append(value)
        updated = [
            sum(own) / len(own) if own else old for own, old in zip(members, current, strict=True)
        ]
        if updated == current:
            break
        current = updated
    return current


def train_alone(
    class_embeddings: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    rates: Sequence[float],
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    logit_scale: float,
    penalty: Callable[[Tensor], Tensor | float] = lambda _: 0.0,
) -> list[float]:
    """Stochastic gradient descent written out; the losses of all steps. Changes `parameters`.

    g = gradient + weight_decay * w;  velocity = momentum * velocity + g;  w = w - lr * velocity,
    or, with Nesterov's momentum, w = w - lr * (g + momentum * velocity)
    """
    velocities: list[Tensor | None] = [None] * len(parameters)
    losses = []
    for (image_BE, label_B), rate in zip(batches, rates, strict=True):
        class_KE = F.normalize(class_embeddings(), dim=-1)
        log_p_BK = torch.log_softmax(logit_scale * image_BE @ class_KE.T, dim=-1)
        loss = -torch.stack([row[label] for row, label in zip(log_p_BK, label_B, strict=True)])
        total = loss.mean() + penalty(class_KE)
        gradients = torch.autograd.grad(total, list(parameters))
        losses.append(total.item())
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                step = gradient + weight_decay * weight
                old = velocities[i]
                velocity = step if old is None else momentum * old + step
                weight -= rate * (step + momentum * velocity if nesterov else velocity)
                velocities[i] = velocity
    return losses


def coop_schedule(
    lr: float, n_images: int, shots: int, batch_size: int, epochs: int | None = None
) -> list[float]:
    """CoOp's learning rate at every step: 1e-5 in epoch 0, then a cosine, constant in an epoch."""
    if epochs is None:
        epochs = {1: 50, 2: 100, 3: 100, 4: 100, 5: 100, 6: 100, 7: 100}.get(shots, 200)
    rates = []
    for epoch in range(epochs):
        rate = 0.5 * lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) if epoch else 1e-5
        rates.append(rate)
        seen = batch_size
        while seen + batch_size <= n_images:
            rates.append(rate)
            seen += batch_size
    return rates


def coop_batches(
    index_N: Tensor, n_views: int, seed: int, batch_size: int, n_batches: int
) -> list[tuple[Tensor, Tensor]]:
    """Image rows and views: every pass a new order, its last batch dropped if incomplete."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    while len(batches) < n_batches:
        rows = [int(index_N[i]) for i in torch.randperm(len(index_N), generator=generator)]
        while len(rows) >= batch_size:
            views_B = torch.randint(n_views, (batch_size,), generator=generator)
            batches.append((torch.tensor(rows[:batch_size]), views_B))
            rows = rows[batch_size:]
    return batches[:n_batches]


def sample_shots(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """CoOp's rule: classes by first appearance, `random.sample` of each, all if there are fewer."""
    random.seed(seed)
    classes: list[int] = []
    for label in labels:
        if label not in classes:
            classes.append(label)
    drawn = []
    for wanted in classes:
        items = [position for position, label in enumerate(labels) if label == wanted]
        drawn += random.sample(items, shots) if len(items) >= shots else items
    return drawn


def sample_train_and_val(
    train: Sequence[int], val: Sequence[int], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """CoOp's rule: seed once; a class after the other from train, then up to 4 each from val."""
    random.seed(seed)
    drawn: list[list[int]] = []
    for labels, wanted in ((train, shots), (val, min(shots, 4))):
        tracker: dict[int, list[int]] = {}
        for position, label in enumerate(labels):
            tracker.setdefault(label, []).append(position)
        drawn.append([])
        for items in tracker.values():
            drawn[-1] += random.sample(items, wanted) if len(items) >= wanted else items
    return drawn[0], drawn[1]


def pareto_numbers(points: Sequence[tuple[int, float, int]]) -> set[int]:
    """The numbers of (number, score, size) points that no other point dominates.

    A point is dominated if another is at least as good in both and better in one; of equal
    points the earliest stands for all.
    """
    front = set()
    for number, score, size in points:
        dominated = any(
            s >= score and b <= size and (s > score or b < size or n < number)
            for n, s, b in points
            if n != number
        )
        if not dominated:
            front.add(number)
    return front


def pack_bits(codes: Sequence[int], bits: int) -> bytes:
    """The codes written one after the other in binary, filled up with zeros to whole bytes."""
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def decode(codes: Sequence[int], codebooks: Sequence[Sequence[float]]) -> list[float]:
    """Each code's value in the codebook of its run; runs are equally long."""
    run = len(codes) // len(codebooks)
    return [codebooks[place // run][code] for place, code in enumerate(codes)]


def load_into_coop(path: Any, learner: torch.nn.Module) -> int:
    """What `load_model` of CoOp's public code does with a file; the epoch that it prints."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state, epoch = checkpoint["state_dict"], checkpoint["epoch"]
    for fixed in ("token_prefix", "token_suffix"):
        if fixed in state:
            del state[fixed]
    learner.load_state_dict(state, strict=False)
    return int(epoch)
