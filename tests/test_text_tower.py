"""The shared path is an identity, and only taken where it is one."""

from typing import Any

import open_clip
import pytest
import torch
from conftest import clip_config
from reference import encode_context
from torch import Tensor

from pipeline.packing import fill_rows
from pipeline.text_tower import TextTower, choose_path

RELATIVE = 1e-5  # float32 through two layers
NAMES = [[320], [5, 6, 7], [10, 11], [320], [400, 401, 402, 403, 404, 405], [9]]


def build(kind: str) -> Any:
    """Return the text tower of a tiny model, with biases and norms that are not trivial."""
    torch.manual_seed(3)
    make = open_clip.CustomTextCLIP if kind.startswith("custom") else open_clip.CLIP
    options = {
        "custom": {"ls_init_value": 0.3, "proj_bias": True, "proj_type": "linear"},
        "custom no mask": {"no_causal_mask": True, "pool_type": "last"},
        "custom first": {"no_causal_mask": True, "pool_type": "first"},
        "custom blocks": {"qk_norm": True, "scale_attn": True, "block_type": "custom"},
    }.get(kind, {})
    config = clip_config(**options)
    model = make(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu="quick" in kind
    )
    text = getattr(model, "text", model)
    with torch.no_grad():
        text.token_embedding.weight.normal_(0, 0.3)
        text.positional_embedding.normal_(0, 0.3)
        for name, parameter in text.named_parameters():
            if parameter.ndim == 1 and "visual" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return text.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def compare(text: Any, tower: TextTower, n_ctx: int, n_replicas: int) -> None:
    """Assert equal features and equal gradients with respect to the context."""
    generator = torch.Generator().manual_seed(n_ctx)
    start_SMD = 0.3 * torch.randn(n_replicas, n_ctx, tower.width, generator=generator)
    fast_SMD, slow_SMD = (start_SMD.clone().requires_grad_() for _ in range(2))
    found_SKE = tower(fast_SMD, tower.pack(NAMES, n_ctx))
    expected_SKE = torch.stack([encode_context(text, x_MD, NAMES) for x_MD in slow_SMD])
    assert relative(found_SKE, expected_SKE) < RELATIVE
    weight = torch.randn(found_SKE.shape, generator=generator)
    (found_SKE * weight).sum().backward()
    (expected_SKE * weight).sum().backward()
    assert relative(fast_SMD.grad, slow_SMD.grad) < RELATIVE


@pytest.mark.parametrize("n_ctx", [1, 4, 8])
@pytest.mark.parametrize("kind", ["gelu", "quick gelu", "custom", "custom quick gelu"])
def test_shared_path_equals_the_full_one(kind: str, n_ctx: int) -> None:
    text = build(kind)
    tower = TextTower(text)
    assert tower.path == "shared"
    compare(text, tower, n_ctx, n_replicas=3)


@pytest.mark.parametrize("kind", ["custom no mask", "custom first", "custom blocks"])
def test_other_towers_take_the_full_path(kind: str) -> None:
    text = build(kind)
    tower = TextTower(text)
    assert tower.path == "full"
    compare(text, tower, n_ctx=4, n_replicas=2)


def test_many_names_fill_several_rows() -> None:
    text = build("gelu")
    tower = TextTower(text)
    names = [[10 + k] * (1 + k % 7) for k in range(40)]
    packed = tower.pack(names, 4)
    context_MD = torch.randn(4, tower.width)
    assert len(packed.embeddings_RWD) > 1
    assert relative(tower(context_MD[None], packed)[0], encode_context(text, context_MD, names)) < (
        RELATIVE
    )


def test_template_words_give_the_models_own_features(backbone: Any) -> None:
    names = ["cat", "hot_air balloon", "keycap: #"]
    side = backbone.text_side("a photo of a", names)
    class_KE = side.tower(side.init_MD(4)[None], side.pack(names, 4))[0]
    captions = [f"a photo of a {name.replace('_', ' ')}." for name in names]
    own_KE = backbone.encode_captions(captions)
    assert relative(torch.nn.functional.normalize(class_KE, dim=-1), own_KE) < RELATIVE


def test_class_order_is_the_callers(tower: TextTower) -> None:
    context_SMD = torch.randn(1, 4, tower.width)
    order = [4, 0, 5, 2, 1, 3]
    straight = tower(context_SMD, tower.pack(NAMES, 4))
    shuffled = tower(context_SMD, tower.pack([NAMES[k] for k in order], 4))
    assert relative(shuffled, straight[:, order]) < RELATIVE


def test_a_class_does_not_see_the_others(tower: TextTower) -> None:
    context_SMD = torch.randn(2, 4, tower.width)
    together = tower(context_SMD, tower.pack(NAMES, 4))
    alone = [tower(context_SMD, tower.pack([name], 4)) for name in NAMES]
    assert relative(together, torch.cat(alone, dim=1)) < RELATIVE


def test_the_longest_name_fits_and_one_more_token_does_not(tower: TextTower) -> None:
    room = tower.context_length - 2 - 4
    assert tower(torch.zeros(1, 4, tower.width), tower.pack([[7] * room], 4)).isfinite().all()
    with pytest.raises(ValueError, match=rf"class 1: .* {room + 1} tokens; allowed: 1 to {room}"):
        tower.pack([[7], [7] * (room + 1)], 4)
    with pytest.raises(ValueError, match="0 tokens"):
        tower.pack([[]], 4)


def test_rows_hold_every_name_once_and_never_too_many() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (9, 16, 64):
        lengths = torch.randint(1, 10, (50,), generator=generator).tolist()
        rows = fill_rows(lengths, width)
        assert sorted(k for row in rows for k in row) == list(range(50))
        assert all(sum(lengths[k] for k in row) <= width for row in rows)


def test_nothing_of_the_tower_trains(tower: TextTower) -> None:
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_a_mask_that_is_not_plainly_causal_is_not_shared() -> None:
    blocks = build("gelu").transformer.resblocks
    causal = torch.full((5, 5), float("-inf")).triu(1)
    assert choose_path(causal, "argmax", blocks)[0] == "shared"
    leaking, biased = causal.clone(), causal.clone()
    leaking[0, 4], biased[4, 0] = 0.0, -1.0
    assert choose_path(leaking, "argmax", blocks)[0] == "full"
    assert choose_path(biased, "argmax", blocks)[0] == "full"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"embed_cls": True}, "class token"),
        ({"no_causal_mask": True, "use_pad_mask": True}, "padding"),
    ],
)
def test_towers_that_cannot_take_contexts_are_refused(options: Any, reason: str) -> None:
    text = open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=100, width=32, heads=2, layers=1, **options
    )
    with pytest.raises(ValueError, match=reason):
        TextTower(text)
    with pytest.raises(ValueError, match="no token_embedding"):
        TextTower(torch.nn.Linear(2, 2))
