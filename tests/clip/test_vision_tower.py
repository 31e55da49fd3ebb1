"""Deep vision prompts are exact: for every family of towers, against open_clip's own code."""

import copy
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from pipeline.clip.backbone import Backbone
from pipeline.clip.fingerprint import fingerprint
from pipeline.clip.vision_tower import VisionTower
from pipeline.core.device import has_bfloat16
from tests.clip.test_text_tower import relative
from tests.helpers.fits import Waits
from tests.helpers.reference import encode_prompted

RELATIVE = 1e-5  # float32
HALF = 2e-2  # bfloat16 keeps eight bits: a few layers of roundings of 2^-9
LAYERS, IMAGE = 4, 32
TINY = {"image_size": IMAGE, "patch_size": 8, "width": 64, "head_width": 32, "layers": LAYERS}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quickgelu": {},
    "layer scale": {"ls_init_value": 0.3},
    "tanh": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
    "no ln_pre": {"no_ln_pre": True},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
    "norm behind the pool": {"final_ln_after_pool": True},
    "tokens, too": {"output_tokens": True},
    "no patch dropout in evaluation": {"patch_dropout": 0.5},
    "narrow mlp": {"mlp_ratio": 1.5},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "average": ({"pool_type": "avg"}, "its pooling is 'avg'"),
    "no pool": ({"pool_type": "none"}, "its pooling is 'none'"),
    "attention": ({"attentional_pool": True, "attn_pooler_heads": 2}, "it pools by attention"),
    "blocks": ({"qk_norm": True}, "its blocks are not the usual ones"),
    "dropped patches": ({"patch_dropout": 0.5}, "it drops patches while it trains"),
    "resnet": ({"layers": [1, 1, 1, 1]}, "ModifiedResNet.*it has no class_embedding"),
    "timm": (
        {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": ""},
        "TimmModel.*it has no conv1",
    ),
}


def build(quick_gelu: bool = False, **options: Any) -> Any:
    """Return a tiny image tower in which every part matters."""
    torch.manual_seed(3)
    return shake(open_clip.model._build_vision_tower(16, {**TINY, **options}, quick_gelu))


def shake(visual: Any) -> Any:
    """Give a tower's parameters sizes that make every part of it matter."""
    with torch.no_grad():
        for parameter in visual.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return visual.eval()


def draw(tower: VisionTower, depth: int, n_ctx: int, n_replicas: int = 2) -> Tensor:
    """Return prompts to take gradients of, of the size of the states that they stand beside."""
    generator = torch.Generator().manual_seed(n_ctx + 10 * depth)
    prompt_SJMW = torch.randn(n_replicas, depth, n_ctx, tower.width, generator=generator)
    return (0.5 * prompt_SJMW).requires_grad_()


def pictures(n_replicas: int, n_images: int, size: int = IMAGE) -> Tensor:
    """Return other images for every replica."""
    generator = torch.Generator().manual_seed(n_images)
    return torch.randn(n_replicas, n_images, 3, size, size, generator=generator)


def with_gradient(image_SBE: Tensor, prompt_SJMW: Tensor) -> list[Tensor]:
    """Return image embeddings, and the prompts' gradient of a fixed combination of them."""
    weight_SBE = torch.arange(image_SBE.numel()).sin().view(image_SBE.shape)
    grads = torch.autograd.grad((image_SBE.float() * weight_SBE).sum(), prompt_SJMW)
    return [image_SBE.detach().float(), *grads]


def run(tower: VisionTower, picture_SB3HW: Tensor, prompt_SJMW: Tensor) -> Tensor:
    """Return image embeddings `[S, B, E]`."""
    token_NLW = tower.embed(picture_SB3HW.flatten(0, 1))
    token_SBLW = token_NLW.unflatten(0, picture_SB3HW.shape[:2])
    image_SBE: Tensor = tower(token_SBLW, prompt_SJMW)
    return image_SBE


def errors(visual: Any, depth: int, n_ctx: int, n_images: int = 3) -> list[float]:
    """Return how far embeddings and gradients are from open_clip's own, two replicas at once."""
    own = VisionTower(visual)
    picture_SB3HW = pictures(2, n_images, visual.image_size[0])
    prompt_SJMW = draw(own, depth, n_ctx)
    found = with_gradient(run(own, picture_SB3HW, prompt_SJMW), prompt_SJMW)
    with torch.autocast("cpu", enabled=False):
        slow = [
            encode_prompted(visual, picture_B3HW, prompt_JMW)
            for picture_B3HW, prompt_JMW in zip(picture_SB3HW, prompt_SJMW, strict=True)
        ]
        expected = with_gradient(torch.stack(slow), prompt_SJMW)
    return [relative(a, b) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("depth", "n_ctx"), [(1, 2), (3, 1), (LAYERS, 2), (LAYERS, 5)])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_family_equals_its_own_code(kind: str, depth: int, n_ctx: int) -> None:
    visual = build(quick_gelu=kind == "quickgelu", **OPTIONS[kind])
    assert max(errors(visual, depth, n_ctx)) < RELATIVE


@pytest.mark.parametrize("kind", OPTIONS)
def test_bfloat16_equals_float32_to_its_rounding(kind: str) -> None:
    visual = build(quick_gelu=kind == "quickgelu", **OPTIONS[kind])
    with torch.autocast("cpu", torch.bfloat16):
        found = errors(visual, LAYERS, 2)
    assert max(found) < HALF
    assert max(found) > RELATIVE, "it did run in bfloat16"


@pytest.mark.parametrize(("name", "image_size"), [("ViT-B-16", 64), ("ViT-B-32-quickgelu", 224)])
def test_maples_depth_and_length_in_real_towers(name: str, image_size: int) -> None:
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    options = {**config["vision_cfg"], "image_size": image_size}
    quick = bool(config.get("quick_gelu"))
    visual = shake(open_clip.model._build_vision_tower(512, options, quick))
    assert max(errors(visual, depth=9, n_ctx=2, n_images=1)) < RELATIVE
    if has_bfloat16("cpu"):  # emulated, it takes a minute
        with torch.autocast("cpu", torch.bfloat16):
            assert max(errors(visual, depth=9, n_ctx=2, n_images=1)) < HALF


def configs() -> dict[str, Any]:
    """Return one of open_clip's models for every distinct set of options of an image tower."""
    found: dict[str, Any] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = {k: v for k, v in config["vision_cfg"].items() if k not in TINY}
        if "timm_model_name" not in vision and isinstance(config["vision_cfg"]["layers"], int):
            found.setdefault(str([sorted(vision.items()), config.get("quick_gelu")]), name)
    return {name: open_clip.get_model_config(name) for name in found.values()}


@pytest.mark.parametrize("name", configs())
def test_every_config_of_open_clip_made_small(name: str) -> None:
    config = configs()[name]
    options = {**config["vision_cfg"], **TINY}
    if options.get("attentional_pool"):
        options["attn_pooler_heads"] = 2
    visual = build(quick_gelu=bool(config.get("quick_gelu")), **options)
    if options.get("attentional_pool") or options.get("pool_type", "tok") != "tok":
        with pytest.raises(ValueError, match="cannot read prompts"):
            VisionTower(visual)
    else:
        assert max(errors(visual, LAYERS, 2)) < RELATIVE


@pytest.mark.parametrize("kind", REFUSED)
def test_towers_that_it_cannot_run_are_refused(kind: str) -> None:
    options, message = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"image tower .*{message}.*; expected one of"):
        VisionTower(build(**options).train())


def test_the_backbones_tower_without_prompts_is_the_models_own_encoder(backbone: Backbone) -> None:
    tower, picture_N3HW = backbone.vision_side(), pictures(1, 5)[0]
    token_NLW = tower.embed(picture_N3HW)
    assert token_NLW.shape == (5, tower.n_tokens, tower.width)
    found_1NE = tower(token_NLW[None], torch.zeros(1, 1, 0, tower.width))
    assert relative(found_1NE[0], backbone.model.encode_image(picture_N3HW)) < RELATIVE
    assert max(errors(backbone.model.visual, 2, 2)) < RELATIVE
    assert backbone.vision_side(budget_bytes=7).budget_bytes == 7


@pytest.mark.parametrize("kind", ["plain", "layer scale", "no ln_pre"])
def test_the_prompts_that_a_block_returns_change_nothing_if_they_come_back(kind: str) -> None:
    visual, states = build(**OPTIONS[kind]), []
    tower = VisionTower(visual)
    picture_SB3HW, prompt_SJMW = pictures(1, 1), draw(tower, 1, 2, n_replicas=1)
    blocks = visual.transformer.resblocks[1:]
    hooks = [
        block.register_forward_pre_hook(lambda _block, inputs: states.append(inputs[0][0, -2:]))
        for block in blocks
    ]
    with torch.no_grad():
        shallow_1E = encode_prompted(visual, picture_SB3HW[0], prompt_SJMW[0])
        for hook in hooks:
            hook.remove()
        deep_SJMW = torch.stack([prompt_SJMW[0, 0], *states])[None]
        assert deep_SJMW.shape[1] == LAYERS
        assert relative(run(tower, picture_SB3HW, deep_SJMW)[0], shallow_1E) < RELATIVE


@pytest.mark.parametrize("budget_bytes", [1, 2**19, 2**21])
def test_chunks_equal_one_pass(budget_bytes: int) -> None:
    visual = build()
    whole, chunked = VisionTower(visual), VisionTower(visual, budget_bytes)
    picture_SB3HW, prompt_SJMW = pictures(2, 7), draw(whole, LAYERS, 2)
    assert chunked.images_per_chunk(2, 2) < 7 <= whole.images_per_chunk(2, 2)
    one, many = (
        with_gradient(run(tower, picture_SB3HW, prompt_SJMW), prompt_SJMW)
        for tower in (whole, chunked)
    )
    assert all(relative(a, b) < RELATIVE for a, b in zip(many, one, strict=True))
    with torch.no_grad():
        assert relative(run(chunked, picture_SB3HW, prompt_SJMW), one[0]) < RELATIVE


@pytest.mark.parametrize(("n_images", "n_replicas", "n_ctx"), [(1, 1, 2), (6, 1, 2), (4, 3, 8)])
@pytest.mark.parametrize("kind", ["plain", "quickgelu", "layer scale"])
def test_the_budget_is_kept(kind: str, n_images: int, n_replicas: int, n_ctx: int) -> None:
    tower = VisionTower(build(quick_gelu=kind == "quickgelu", **OPTIONS[kind]))
    token_SBLW = tower.embed(pictures(1, n_images)[0]).expand(n_replicas, -1, -1, -1)
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tower(token_SBLW, draw(tower, LAYERS, n_ctx, n_replicas))
    for weight in (*tower.parameters(), *tower.buffers()):
        kept.pop(weight.untyped_storage().data_ptr(), None)
    tower.budget_bytes = sum(kept.values())
    assert tower.images_per_chunk(n_replicas, n_ctx) <= n_images, "never believes that more fits"
    tower.budget_bytes = 3 * sum(kept.values())
    assert tower.images_per_chunk(n_replicas, n_ctx) >= n_images, "nor that much less does"


def test_without_gradients_more_images_fit() -> None:
    tower = VisionTower(build(), budget_bytes=2**22)
    few = tower.images_per_chunk(2, 2)
    with torch.no_grad():
        assert LAYERS * few <= tower.images_per_chunk(2, 2) < LAYERS * (few + 1)


def test_replicas_and_images_do_not_see_each_other() -> None:
    tower = VisionTower(build())
    picture_SB3HW, prompt_SJMW = pictures(2, 3), draw(tower, LAYERS, 2)
    together_SBE = run(tower, picture_SB3HW, prompt_SJMW)
    for own, other in ((0, 1), (1, 0)):
        for b in range(3):
            alone = run(tower, picture_SB3HW[own, b][None, None], prompt_SJMW[own][None])
            assert relative(together_SBE[own, b], alone[0, 0]) < RELATIVE
        [grad_SJMW] = torch.autograd.grad(
            together_SBE[own].square().sum(), prompt_SJMW, retain_graph=True
        )
        assert torch.equal(grad_SJMW[other], torch.zeros_like(grad_SJMW[other]))
        assert (grad_SJMW[own].norm(dim=-1) > 0).all(), "every prompt of every layer learns"


def test_nothing_of_the_tower_changes(backbone: Backbone) -> None:
    tower, before = backbone.vision_side(), fingerprint(backbone.model)
    prompt_SJMW = nn.Parameter(draw(tower, 2, 2).detach())
    optimizer = torch.optim.SGD([prompt_SJMW, *tower.parameters()], lr=0.5, weight_decay=0.1)
    image_SBE = run(tower, pictures(2, 3), prompt_SJMW)
    start_SJMW = prompt_SJMW.detach().clone()
    image_SBE.square().sum().backward()
    optimizer.step()
    assert not torch.equal(prompt_SJMW, start_SJMW)
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())
    assert fingerprint(backbone.model) == before


@pytest.mark.parametrize("depth", [0, LAYERS + 1])
def test_depths_that_the_tower_does_not_have_are_refused(depth: int) -> None:
    tower = VisionTower(build())
    with pytest.raises(ValueError, match=rf"got {depth} layers; expected 1 to {LAYERS}"):
        run(tower, pictures(2, 1), draw(tower, depth, 2))


@pytest.mark.parametrize("budget_bytes", [1, 2**30])
@pytest.mark.parametrize("enabled", [False, True])
def test_a_pass_does_not_wait(enabled: bool, budget_bytes: int) -> None:
    tower = VisionTower(build(), budget_bytes)
    picture_SB3HW, prompt_SJMW = pictures(2, 3), draw(tower, LAYERS, 2)
    with Waits() as waits, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        run(tower, picture_SB3HW, prompt_SJMW).float().sum().backward()
    assert not waits.places


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("budget_bytes", [1, 2**30])
def test_a_gpu_gives_the_same_numbers_and_is_not_waited_for(budget_bytes: int) -> None:
    tower = VisionTower(build(), budget_bytes)
    picture_SB3HW, prompt_SJMW = pictures(2, 3), draw(tower, LAYERS, 2)
    expected = with_gradient(run(tower, picture_SB3HW, prompt_SJMW), prompt_SJMW)
    own, picture_SB3HW = copy.deepcopy(tower).cuda(), picture_SB3HW.cuda()
    prompt_SJMW = prompt_SJMW.detach().cuda().requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        image_SBE = run(own, picture_SB3HW, prompt_SJMW)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = with_gradient(image_SBE.cpu(), prompt_SJMW)
    assert all(relative(a.cpu(), b) < 1e-3 for a, b in zip(found, expected, strict=True))
