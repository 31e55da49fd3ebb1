"""Towers and tokenizers from Hugging Face, loaded from local folders by the real code."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import MT5Config, PreTrainedTokenizerFast, RobertaConfig

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.encoders import TextSide
from tests.clip.test_text_tower import RELATIVE, relative

WORDS = ["a", "photo", "of", "red", "apple", "hot", "air", "balloon", "cat", "ice", ".", "drawing"]
NAMES = ["cat", "red_apple", "hot air balloon"]
CONTEXT = 16
PLAIN = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 60, "context_length": CONTEXT}
TEXTS: dict[str, Any] = {
    "roberta": RobertaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40, pad_token_id=1,
    ),
    "mt5": MT5Config(
        vocab_size=60, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, pad_token_id=1
    ),
    "worldwide": {**PLAIN, "pool_type": "eos", "eos_id": 2, "pad_id": 1},
    "siglip": {**PLAIN, "no_causal_mask": True, "pool_type": "last", "pad_id": 1},
}  # fmt: skip


def save_tokenizer(folder: Path, bos: bool) -> None:
    """Write a word tokenizer that closes captions with </s>, and may open them with <s>."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: 4 + index for index, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if bos else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)


@pytest.fixture(params=TEXTS)
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    text = TEXTS[request.param]
    if not isinstance(text, dict):
        text.save_pretrained(tmp_path)
        text = {
            "hf_model_name": str(tmp_path),
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "context_length": CONTEXT,
        }
    save_tokenizer(tmp_path, bos=request.param in ("roberta", "worldwide"))
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {**text, "hf_tokenizer_name": "in this folder"},
        "custom_text": True,
    }
    torch.manual_seed(0)
    made = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    with torch.no_grad():
        for parameter in made.text.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    weights = {name: tensor.contiguous().clone() for name, tensor in made.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    return load_backbone(BackboneConfig(name=str(tmp_path), pretrained=None, device="cpu"))


@pytest.fixture
def side(backbone: Backbone) -> TextSide:
    return backbone.text_side("a photo of a", NAMES)


def plain(backbone: Backbone, context_MD: Tensor, names: list[list[int]]) -> Tensor:
    """Encode one class at a time, from embeddings, padded to the full length."""
    text, frame, out = backbone.model.text, backbone.text.frame, []
    for name in names:
        after = [*name, *frame.eos]
        n_pad = CONTEXT - len(frame.sos) - len(context_MD) - len(after)
        parts = [
            backbone.text.embed(list(frame.sos)) if frame.sos else context_MD[:0],
            context_MD,
            backbone.text.embed([*after, *[frame.pad] * n_pad]),
        ]
        seen = (torch.arange(CONTEXT) < CONTEXT - n_pad).long()[None]
        states = text.transformer(inputs_embeds=torch.cat(parts)[None], attention_mask=seen)
        out.append(text.proj(text.pooler(states, seen))[0])
    return torch.stack(out)


def test_template_words_give_the_models_own_features(backbone: Backbone, side: TextSide) -> None:
    assert side.init_words == [4, 5, 6, 4]
    assert side.name_tokens["red_apple"] == [7, 8, 14]
    class_KE = side.tower(side.init_MD(4)[None], side.pack(NAMES, 4))[0]
    captions = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    own_KE = backbone.encode_captions(captions)
    assert relative(F.normalize(class_KE, dim=-1), own_KE) < RELATIVE


@pytest.mark.parametrize("backbone", ["roberta", "mt5"], indirect=True)
def test_any_context_equals_the_plain_path(backbone: Backbone, side: TextSide) -> None:
    names = list(side.name_tokens.values())
    start = 0.3 * torch.randn(2, 3, side.tower.width)
    fast, slow = (start.clone().requires_grad_() for _ in range(2))
    found = side.tower(fast, side.pack(NAMES, 3))
    expected = torch.stack([plain(backbone, context_MD, names) for context_MD in slow])
    assert relative(found, expected) < RELATIVE
    found.square().sum().backward()
    expected.square().sum().backward()
    assert relative(fast.grad, slow.grad) < RELATIVE
    side.tower.budget_bytes = 1
    again = start.clone().requires_grad_()
    chunked = side.tower(again, side.pack(NAMES, 3))
    chunked.square().sum().backward()
    assert relative(chunked, expected) < RELATIVE
    assert relative(again.grad, slow.grad) < RELATIVE


def test_names_that_do_not_fit_are_refused(side: TextSide) -> None:
    room = side.tower.room(4)
    with pytest.raises(ValueError, match=rf"{room + 1} tokens; expected 1 to {room}"):
        side.tower.pack([[7] * (room + 1)], 4)
    with pytest.raises(ValueError, match="too long for n_ctx"):
        side.check_names(CONTEXT - 2)


def test_nothing_of_the_tower_trains(side: TextSide) -> None:
    assert not any(parameter.requires_grad for parameter in side.tower.parameters())


@pytest.mark.parametrize("backbone", ["roberta", "mt5"], indirect=True)
def test_deep_prompts_are_refused(side: TextSide) -> None:
    context_SMD = torch.zeros(1, 3, side.tower.width)
    with pytest.raises(ValueError, match="deep text prompts: got . layers; expected at most 0"):
        side.tower(context_SMD, side.pack(NAMES, 3), context_SMD[:, None])
