"""Deep text prompts (MaPLe) keep every text path exact, against open_clip's own code."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from pipeline.clip.text.tower import TextTower
from tests.clip.test_text_tower import NAMES, OPTIONS, RELATIVE, build, real_text, relative
from tests.helpers.reference import encode_context
from tests.helpers.toy import CLIP_FRAME

LAYERS = 4
HALF = 4e-2  # bfloat16 keeps eight bits: four layers of roundings of 2^-9
KINDS = list(OPTIONS)


def draw(tower: TextTower, depth: int, n_ctx: int, n_replicas: int) -> tuple[Tensor, Tensor]:
    """Return contexts and deep prompts to take gradients of."""
    generator = torch.Generator().manual_seed(n_ctx + 10 * depth)
    context_SMD = 0.3 * torch.randn(n_replicas, n_ctx, tower.width, generator=generator)
    deep_SIMD = 0.6 * torch.randn(n_replicas, depth, n_ctx, tower.width, generator=generator)
    return context_SMD.requires_grad_(), deep_SIMD.requires_grad_()


def gradients(class_SKE: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the gradients of a fixed combination of class embeddings."""
    weight_SKE = torch.arange(class_SKE.numel()).sin().view(class_SKE.shape)
    return list(torch.autograd.grad((class_SKE.float() * weight_SKE).sum(), inputs))


def errors(
    text: Any, tower: TextTower, names: list[list[int]], depth: int, n_ctx: int, n_replicas: int = 2
) -> list[float]:
    """Return how far features and both gradients are from open_clip's own."""
    context_SMD, deep_SIMD = draw(tower, depth, n_ctx, n_replicas)
    found_SKE = tower(context_SMD, tower.pack(names, n_ctx), deep_SIMD)
    found = [found_SKE, *gradients(found_SKE, context_SMD, deep_SIMD)]
    with torch.autocast("cpu", enabled=False):
        slow = [
            encode_context(text, tower.frame, context_MD, names, deep_IMD)
            for context_MD, deep_IMD in zip(context_SMD, deep_SIMD, strict=True)
        ]
        expected_SKE = torch.stack(slow)
        expected = [expected_SKE, *gradients(expected_SKE, context_SMD, deep_SIMD)]
    return [relative(a.float(), b) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("depth", "n_ctx"), [(1, 4), (2, 1), (LAYERS - 1, 2), (LAYERS - 1, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_equals_its_own_full_path(kind: str, depth: int, n_ctx: int) -> None:
    text, frame = build(kind, layers=LAYERS)
    assert max(errors(text, TextTower(text, frame), NAMES, depth, n_ctx)) < RELATIVE


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_equals_float32_to_its_rounding(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    tower = TextTower(text, frame)
    with torch.autocast("cpu", torch.bfloat16):
        found = errors(text, tower, NAMES, LAYERS - 1, 2)
    assert max(found) < HALF
    assert max(found) > RELATIVE, "it did run in bfloat16"


@pytest.mark.parametrize("kind", ["clip", "custom blocks", "custom siglip"])
def test_chunks_equal_their_own_full_path(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    names = [[10 + k] * (1 + k % 7) for k in range(40)]
    tower = TextTower(text, frame, budget_bytes=1)
    assert tower.pack(names, 2).n_parts > 1
    assert tower._part_size(2, tower.pack(names, 2)) == 1
    assert max(errors(text, tower, names, LAYERS - 1, 2)) < RELATIVE


def test_maples_depth_and_length_in_a_real_tower() -> None:
    text = real_text()
    encode = open_clip.get_tokenizer("ViT-B-32-quickgelu").encode
    names = [encode(f"{name}.") for name in ("cat", "hot-air balloon", "flag: St. Vincent")]
    assert max(errors(text, TextTower(text, CLIP_FRAME), names, 8, 2, n_replicas=1)) < RELATIVE


@pytest.mark.parametrize("kind", ["clip", "custom blocks", "custom siglip"])
def test_without_deep_prompts_nothing_changes(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    tower = TextTower(text, frame)
    context_SMD, none_SIMD = draw(tower, 0, 4, 2)
    packed = tower.pack(NAMES, 4)
    assert torch.equal(tower(context_SMD, packed, none_SIMD), tower(context_SMD, packed))


@pytest.mark.parametrize("kind", ["clip", "custom blocks", "custom siglip"])
def test_the_states_that_stood_there_change_nothing(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    tower, start, states = TextTower(text, frame), len(frame.sos), []
    context_SMD, _ = draw(tower, 0, 4, 1)

    def keep(_block: Any, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0][0, start : start + 4])

    with torch.no_grad():
        hooks = [block.register_forward_pre_hook(keep) for block in text.transformer.resblocks]
        plain_KE = encode_context(text, frame, context_SMD[0], NAMES[:1])
        for hook in hooks:
            hook.remove()
        deep_SIMD = torch.stack(states[1:])[None]
        found_SKE = tower(context_SMD, tower.pack(NAMES[:1], 4), deep_SIMD)
    assert relative(found_SKE[0], plain_KE) < RELATIVE


@pytest.mark.parametrize("kind", ["clip", "custom blocks"])
def test_replicas_do_not_see_each_other(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    tower = TextTower(text, frame)
    context_SMD, deep_SIMD = draw(tower, 2, 4, 2)
    packed = tower.pack(NAMES, 4)
    together_SKE = tower(context_SMD, packed, deep_SIMD)
    for own, other in ((0, 1), (1, 0)):
        alone_SKE = tower(context_SMD[own : own + 1], packed, deep_SIMD[own : own + 1])
        assert relative(together_SKE[own], alone_SKE[0]) < RELATIVE
        [grad_SIMD] = torch.autograd.grad(
            together_SKE[own].square().sum(), deep_SIMD, retain_graph=True
        )
        assert torch.equal(grad_SIMD[other], torch.zeros_like(grad_SIMD[other]))
        assert (grad_SIMD[own].flatten(1).norm(dim=1) > 0).all(), "every layer learns"


@pytest.mark.parametrize("kind", ["clip", "custom blocks", "custom siglip"])
def test_as_many_deep_prompts_as_blocks_are_refused(kind: str) -> None:
    text, frame = build(kind, layers=LAYERS)
    tower = TextTower(text, frame)
    context_SMD, deep_SIMD = draw(tower, LAYERS, 4, 1)
    with pytest.raises(ValueError, match=rf"got {LAYERS + 1} layers; expected at most {LAYERS}"):
        tower(context_SMD, tower.pack(NAMES, 4), deep_SIMD)
