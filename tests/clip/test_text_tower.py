"""The text path is an identity: for every family of towers, against open_clip's own code."""

import logging
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.text.layout import Frame
from pipeline.clip.text.packing import fill_rows
from pipeline.clip.text.tower import TextTower, is_causal
from tests.helpers.reference import encode_context
from tests.helpers.toy import CLIP_FRAME, clip_config

RELATIVE = 1e-5  # float32 through two layers
HALF = 2e-2  # bfloat16 keeps eight bits: two layers of roundings of 2^-9
NAMES = [[320], [5, 6, 7], [10, 11], [320], [400, 401, 402, 403, 404, 405], [9]]
OPTIONS: dict[str, dict[str, Any]] = {
    # causal, shared: one per family of text towers among open_clip's configs
    "clip": {},
    "clip quickgelu": {},
    "custom": {"ls_init_value": 0.3, "proj_bias": True, "proj_type": "linear"},
    "custom quickgelu": {},
    "custom tanh": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
    "custom coca": {"embed_cls": True},
    "clip worldwide": {"pool_type": "eos", "eos_id": 2},
    # the others
    "custom blocks": {"qk_norm": True, "scale_attn": True, "block_type": "custom"},
    "custom blocks coca": {"embed_cls": True, "scale_heads": True, "block_type": "custom"},
    "custom siglip": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "custom mobileclip": {"no_causal_mask": True},
    "clip clipa": {"no_causal_mask": True, "pool_type": "last"},
    "custom first": {"no_causal_mask": True, "pool_type": "first"},
}
FRAMES = {
    "clip worldwide": Frame((0,), (2,), 1),  # xlm-v
    "custom siglip": Frame((), (), 1),  # sentencepiece: its EOS is its padding
    "clip clipa": Frame((101,), (), 0),  # bert, the separator stripped
}
SHARED = [kind for kind in OPTIONS if list(OPTIONS).index(kind) < 7]
TRUNCATED = ["custom blocks"]
FULL = [kind for kind in OPTIONS if kind not in SHARED + TRUNCATED]


def build(kind: str, **changed: Any) -> tuple[Any, Frame]:
    """Return a tiny model, with biases and norms that are not trivial, and its frame."""
    torch.manual_seed(3)
    make = open_clip.CustomTextCLIP if kind.startswith("custom") else open_clip.CLIP
    config = clip_config(**{**OPTIONS[kind], **changed})
    model = make(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu="quick" in kind
    )
    return shake(getattr(model, "text", model)), FRAMES.get(kind, CLIP_FRAME)


def shake(text: Any) -> Any:
    """Give a tower's parameters sizes that make every part of it matter."""
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


def errors(
    text: Any, tower: TextTower, names: list[list[int]], n_ctx: int, n_replicas: int
) -> tuple[float, float]:
    """Return how far features and gradients are from open_clip's own."""
    generator = torch.Generator().manual_seed(n_ctx)
    start_SMD = 0.3 * torch.randn(n_replicas, n_ctx, tower.width, generator=generator)
    fast_SMD, slow_SMD = (start_SMD.clone().requires_grad_() for _ in range(2))
    found_SKE = tower(fast_SMD, tower.pack(names, n_ctx)).float()
    with torch.autocast("cpu", enabled=False):
        slow = [encode_context(text, tower.frame, x_MD, names) for x_MD in slow_SMD]
    expected_SKE = torch.stack(slow)
    weight = torch.randn(found_SKE.shape, generator=generator)
    (found_SKE * weight).sum().backward()
    (expected_SKE * weight).sum().backward()
    assert fast_SMD.grad is not None
    assert slow_SMD.grad is not None
    return relative(found_SKE, expected_SKE), relative(fast_SMD.grad, slow_SMD.grad)


@pytest.mark.parametrize("n_ctx", [1, 4, 8])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_family_equals_its_own_full_path(kind: str, n_ctx: int) -> None:
    text, frame = build(kind)
    tower = TextTower(text, frame)
    assert tower.path == (
        "shared" if kind in SHARED else "truncated" if kind in TRUNCATED else "full"
    )
    assert max(errors(text, tower, NAMES, n_ctx, n_replicas=2)) < RELATIVE


@pytest.mark.parametrize("kind", OPTIONS)
def test_bfloat16_equals_float32_to_its_rounding(kind: str) -> None:
    text, frame = build(kind)
    tower = TextTower(text, frame)
    with torch.autocast("cpu", torch.bfloat16):
        found = errors(text, tower, NAMES, 4, n_replicas=2)
    assert max(found) < HALF
    assert max(found) > RELATIVE, "it did run in bfloat16"


@pytest.mark.parametrize("kind", OPTIONS)
def test_chunks_equal_one_pass(kind: str) -> None:
    text, frame = build(kind)
    names = [[10 + k] * (1 + k % 7) for k in range(40)]
    whole, chunked = TextTower(text, frame), TextTower(text, frame, budget_bytes=1)
    packed = chunked.pack(names, 4)
    assert packed.n_parts > 1
    assert chunked._part_size(2, packed) == 1
    contexts = [(0.3 * torch.randn(2, 4, whole.width)) for _ in range(1)]
    first, second = (contexts[0].clone().requires_grad_() for _ in range(2))
    one, many = whole(first, whole.pack(names, 4)), chunked(second, packed)
    assert relative(many, one) < RELATIVE
    one.square().sum().backward()
    many.square().sum().backward()
    assert relative(second.grad, first.grad) < RELATIVE


@pytest.mark.parametrize(
    ("n_classes", "n_replicas", "n_ctx"), [(3, 1, 4), (40, 1, 16), (60, 3, 4), (7, 12, 8)]
)
@pytest.mark.parametrize("kind", ["clip", "custom blocks", "custom siglip"])
def test_the_budget_is_kept(kind: str, n_classes: int, n_replicas: int, n_ctx: int) -> None:
    text, frame = build(kind)
    names = [[10 + k] * (1 + k % 5) for k in range(n_classes)]
    tower = TextTower(text, frame)
    packed, kept = tower.pack(names, n_ctx), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    context_SMD = torch.randn(n_replicas, n_ctx, tower.width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tower(context_SMD, packed)
    for weight in (*tower.parameters(), *tower.buffers()):
        kept.pop(weight.untyped_storage().data_ptr(), None)
    used = sum(kept.values())
    tower.budget_bytes = used
    assert tower._part_size(n_replicas, packed) <= packed.n_parts, "never believes that more fits"
    tower.budget_bytes = 6 * used + 2**20
    assert tower._part_size(n_replicas, packed) >= packed.n_parts, "nor that much less does"


def real_text() -> Any:
    """Return ViT-B/32's text tower with random weights, all twelve layers of it."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    text = shake(open_clip.model._build_text_tower(512, config["text_cfg"], quick_gelu=True))
    with torch.no_grad():
        for parameter in text.transformer.parameters():
            parameter.mul_(0.8)  # twelve layers of shaken weights saturate the softmax
    return text


def test_real_names_through_all_layers_of_a_real_tower() -> None:
    text = real_text()
    encode = open_clip.get_tokenizer("ViT-B-32-quickgelu").encode
    texts = ["cat", "hot-air balloon", "keycap: #", "flag: St. Vincent & Grenadines", "red car"]
    names = [encode(f"{text}.") for text in texts]
    assert len({len(name) for name in names}) > 3
    assert max(errors(text, TextTower(text, CLIP_FRAME), names, 4, 1)) < RELATIVE


def distinct_configs() -> dict[str, Any]:
    """Return one of open_clip's models for every distinct set of options of a text tower."""
    found: dict[str, Any] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = {k: v for k, v in config["text_cfg"].items() if k not in ("width", "layers")}
        if "hf_model_name" not in text:
            found.setdefault(str([sorted(text.items()), config.get("quick_gelu")]), name)
    return {name: open_clip.get_model_config(name) for name in found.values()}


@pytest.mark.parametrize("name", distinct_configs())
def test_every_config_of_open_clip_made_small(name: str) -> None:
    config = distinct_configs()[name]
    options = {**config["text_cfg"], "width": 32, "heads": 2, "layers": 2, "vocab_size": 500}
    options["context_length"] = min(24, options.get("context_length", 77))
    torch.manual_seed(3)
    text = shake(open_clip.model._build_text_tower(16, options, bool(config.get("quick_gelu"))))
    sos, eos = (0, text.eos_id) if text.pool_type == "eos" else (498, 499)
    tower = TextTower(text, Frame((sos,), (eos,), 1 if text.pool_type == "eos" else 0))
    assert (tower.path == "full") == (text.attn_mask is None), "causal towers share the prefix"
    assert max(errors(text, tower, NAMES, 4, n_replicas=2)) < RELATIVE


def test_coca_class_token_stands_behind_full_captions_too() -> None:
    text, frame = build("custom coca")
    tower = TextTower(text, frame)
    room = tower.room(4)
    names = [[7] * room, [8] * (room - 1), [9], [5, 0, 6]]  # no padding, one, many, "!" = padding
    assert max(errors(text, tower, names, 4, n_replicas=2)) < RELATIVE
    text.correct_cls_mask = True
    corrected = TextTower(text, frame)
    assert max(errors(text, corrected, names, 4, n_replicas=2)) < RELATIVE


def test_padding_masks_are_the_towers_own() -> None:
    torch.manual_seed(3)
    text = open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=500, width=32, heads=2, layers=2, output_dim=16,
        no_causal_mask=True, use_pad_mask=True, pool_type="first",
    )  # fmt: skip
    tower = TextTower(shake(text), Frame((498,), (499,), 0))
    assert tower.path == "full"
    assert max(errors(text, tower, [[3], [4, 5, 6]], 4, n_replicas=2)) < RELATIVE


def test_many_names_fill_several_rows() -> None:
    text, frame = build("clip")
    names = [[10 + k] * (1 + k % 7) for k in range(40)]
    tower = TextTower(text, frame)
    assert tower.pack(names, 4).n_parts > 1
    assert max(errors(text, tower, names, 4, n_replicas=1)) < RELATIVE


def test_template_words_give_the_models_own_features(backbone: Any) -> None:
    names = ["cat", "hot_air balloon", "keycap: #"]
    side = backbone.text_side("a photo of a", names)
    class_KE = side.tower(side.init_MD(4)[None], side.pack(names, 4))[0]
    captions = [f"a photo of a {name.replace('_', ' ')}." for name in names]
    own_KE = backbone.encode_captions(captions)
    assert relative(F.normalize(class_KE, dim=-1), own_KE) < RELATIVE


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
    with pytest.raises(ValueError, match=rf"class 1: .* {room + 1} tokens; expected 1 to {room}"):
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


def test_the_log_says_which_path_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for kind in ("clip", "custom coca", "custom blocks", "custom siglip"):
            TextTower(*build(kind))
    reasons = ["pooled at EOS", "appended class token", "not the usual ones", "no causal mask"]
    assert all(reason in line for reason, line in zip(reasons, caplog.messages, strict=True))


def test_a_mask_that_is_not_plainly_causal_is_not_shared() -> None:
    causal = torch.full((5, 5), float("-inf")).triu(1)
    assert is_causal(causal)
    leaking, biased = causal.clone(), causal.clone()
    leaking[0, 4], biased[4, 0] = 0.0, -1.0
    assert not is_causal(leaking)
    assert not is_causal(biased)
    text, frame = build("clip")
    text.attn_mask[0, 4] = 0.0
    assert TextTower(text, frame).path == "full"


def test_towers_that_cannot_take_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match="no token_embedding"):
        TextTower(torch.nn.Linear(2, 2), CLIP_FRAME)
    text, _ = build("clip worldwide")
    with pytest.raises(ValueError, match=r"pools at token 2, .* closes captions with \[49407\]"):
        TextTower(text, CLIP_FRAME)
