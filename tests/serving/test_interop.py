"""Prompts go to other people's code and come back, and mean the same there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.clip.backbone import Backbone
from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import logits
from pipeline.features.task import TaskFeatures
from pipeline.prompts.context import merge
from pipeline.prompts.stored import StoredPrompt
from pipeline.serving.interop import (
    check_class_names,
    class_embeddings,
    load_coop,
    save_coop,
    save_embeddings,
)
from tests.helpers.coop_files import INIT, D, Learner, M, coupled, save_as_coop, stored
from tests.helpers.reference import encode_context, load_into_coop


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_of_coops_code_is_read(
    text: TextSide, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "model.pth.tar-50"
    learner = save_as_coop(path, torch.randn(M, D, dtype=dtype))
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path), "it holds objects"
    prompt = load_coop(path, text.tower, INIT)
    assert (prompt.init, prompt.n_ctx, prompt.size_bytes) == (INIT, M, 2 * M * D)
    assert torch.equal(prompt.values()["context_MD"], learner.ctx.detach().half().float())


@pytest.mark.parametrize("prefix", ["", "prompt_learner.", "module.", "module.prompt_learner."])
def test_the_context_is_found_alone_or_in_a_whole_model(
    text: TextSide, tmp_path: Path, prefix: str
) -> None:
    context = torch.randn(M, D)
    state = {f"{prefix}ctx": context, f"{prefix}bias_vectors": torch.zeros(1, 512)}
    if "prompt_learner" in prefix:
        state["image_encoder.conv1.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pth")
    save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pth", "c.safetensors"):
        prompt = load_coop(tmp_path / name, text.tower, INIT)
        assert torch.equal(prompt.values()["context_MD"], context.half().float())


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"ctx": torch.zeros(3, M, D)}, "a context of its own for each of 3 classes; allowed is"),
        ({"ctx": torch.zeros(M, 512)}, r"found shape \[4, 512\]; allowed is \[1 to 21, 64\]"),
        ({"ctx": torch.zeros(22, D)}, r"found shape \[22, 64\]; allowed is \[1 to 21, 64\]"),
        ({"ctx": torch.zeros(0, D)}, r"found shape \[0, 64\]"),
        ({"ctx": torch.zeros(D)}, r"found shape \[64\]"),
        ({"ctx": torch.zeros(M, D, dtype=torch.long)}, "found torch.int64"),
        ({"ctx": torch.zeros(M, D).to_sparse()}, "found torch.float32, torch.sparse_coo"),
        ({"ctx": torch.zeros(M, D, device="meta")}, "ctx: .*meta"),
        ({"ctx": torch.full((M, D), 1e5)}, "value of 100000; allowed are .* half precision"),
        ({"ctx": torch.full((M, D), float("nan"))}, "value of nan; allowed"),
        ({"ctx": torch.zeros(1, 1).expand(10**9, D)}, r"found shape \[1000000000, 64\]"),
        ({"ctx": torch.zeros(M, D), "meta_net.linear1.weight": torch.zeros(1)}, "found .'meta_net"),
        ({"ctx": torch.zeros(M, D), "proj.weight": torch.zeros(1)}, "found .'proj.weight'. beside"),
        ({"weight": torch.zeros(1)}, r"found \['weight'\]; allowed is a state_dict with ctx"),
        ({"ctx": [1.0]}, r"found \[\]; allowed is a state_dict with ctx"),
    ],
)
def test_what_is_no_plain_context_is_refused(
    text: TextSide, tmp_path: Path, state: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": state, "epoch": 1}, path)
    with pytest.raises(ValueError, match=rf"x\.pth: .*{message}"):
        load_coop(path, text.tower, INIT)


class Harm:
    """Runs something when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, exec, eval, os.mkdir, open])
def test_no_code_of_a_checkpoint_runs(
    text: TextSide, tmp_path: Path, call: Callable[..., Any]
) -> None:
    mark, allowed = tmp_path / "mark", set(torch.serialization.get_safe_globals())
    argument = {
        os.system: f"touch {mark}",
        exec: f"open({str(mark)!r}, 'w')",
        eval: f"open({str(mark)!r}, 'w')",
    }.get(call, str(mark))
    harm = Harm(call, argument, "w") if call is open else Harm(call, argument)
    path = tmp_path / "x.pth"
    for checkpoint in ({"state_dict": {"ctx": torch.zeros(M, D), "x": harm}}, harm, [harm]):
        torch.save(checkpoint, path)
        try:
            prompt = load_coop(path, text.tower, INIT)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 (both ends are allowed, harm is not)
        else:
            assert prompt.values().keys() == {"context_MD"}
        assert not mark.exists()
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_damaged_checkpoint_is_one_line_with_its_name(text: TextSide, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save_as_coop(path, torch.randn(M, D))
    whole = path.read_bytes()
    for data in (b"", b"PK\x03\x04", whole[:-10], whole[: len(whole) // 2], b"\x80\x02}q\x00."):
        for name in ("x.pth", "x.safetensors"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ValueError, match=rf"{name}: not a readable checkpoint") as caught:
                load_coop(tmp_path / name, text.tower, INIT)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        load_coop(tmp_path / "none.pth", text.tower, INIT)


@pytest.mark.parametrize(
    ("rank", "bits"), [("full", 16), ("full", 1), ("full", 3), (2, 16), (1, 1)]
)
def test_coops_loader_takes_what_we_export(
    backbone: Backbone, text: TextSide, tmp_path: Path, rank: int | str, bits: int
) -> None:
    prompt, path = stored(text, rank, bits), tmp_path / "model.pth.tar-50"
    save_coop(path, prompt, text)
    learner = Learner(torch.zeros(M, D))
    suffix = learner.token_suffix.clone()
    load_into_coop(path, learner)
    assert torch.equal(learner.ctx, merge(text.init_MD(M), prompt.values()))
    assert torch.equal(learner.token_suffix, suffix)
    names = [text.name_tokens[name] for name in ("cat", "hot air balloon")]
    there = encode_context(backbone.model, text.tower.frame, learner.ctx.detach(), names)
    here = text.class_embeddings([prompt], text.pack(["cat", "hot air balloon"], M))[0]
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_export_and_import_give_identical_values(text: TextSide, tmp_path: Path, bits: int) -> None:
    prompt = stored(text, "full", bits)
    save_coop(tmp_path / "x.pth", prompt, text)
    found = load_coop(tmp_path / "x.pth", text.tower, INIT)
    assert torch.equal(found.values()["context_MD"], prompt.values()["context_MD"])


def test_a_low_rank_prompt_comes_back_rounded_to_half(text: TextSide, tmp_path: Path) -> None:
    prompt = stored(text, 2, 16)
    save_coop(tmp_path / "x.pth", prompt, text)
    found = load_coop(tmp_path / "x.pth", text.tower, INIT)
    merged = merge(text.init_MD(M), prompt.values())
    assert torch.equal(found.values()["context_MD"], merged.half().float())


def test_equal_prompts_are_equal_files(text: TextSide, tmp_path: Path) -> None:
    prompt = stored(text)
    save_coop(tmp_path / "a", prompt, text)
    save_coop(tmp_path / "b", prompt, text)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("rank", "bits"), [("full", 16), (1, 1), (None, 16)])
def test_exported_embeddings_classify_as_we_do(
    text: TextSide, features: TaskFeatures, tmp_path: Path, rank: int | str | None, bits: int
) -> None:
    """In plain code; `None` is the zero-shot prompt."""
    prompt = StoredPrompt(INIT, M, {}) if rank is None else stored(text, rank, bits)
    path = tmp_path / "x.safetensors"
    save_embeddings(path, prompt, text, features.class_names, "f")
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    weight = load_file(path)["class_embeddings"]
    assert about == {
        "class_names": list(features.class_names),
        "logit_scale": text.logit_scale,
        "fingerprint": "f",
    }
    assert (weight.dtype, weight.shape) == (torch.float32, (8, 32))
    torch.testing.assert_close(weight.norm(dim=-1), torch.ones(8))
    there = features.features_NE @ weight.T * about["logit_scale"]
    class_KE = text.class_embeddings([prompt], text.pack(features.class_names, M))[0]
    here = logits(features.features_NE, class_KE, text.logit_scale)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)


def test_the_zero_shot_prompts_embeddings_are_open_clips_own(
    backbone: Backbone, text: TextSide, features: TaskFeatures
) -> None:
    found = class_embeddings(StoredPrompt(INIT, M, {}), text, features.class_names)
    captions = [features.template.format(name) for name in features.class_names]
    torch.testing.assert_close(found, backbone.encode_captions(captions), rtol=1e-4, atol=1e-5)


def test_a_coupled_prompt_cannot_leave(text: TextSide, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(ValueError, match="coupling_JWD.* has no plain context"):
        save_coop(path, coupled(), text)
    with pytest.raises(ValueError, match="coupling_JWD.* has no plain context"):
        save_embeddings(path, coupled(), text, ["cat"], "f")
    assert not path.exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"found \[\]"),
        (["a", ""], r"found \['a', ''\]; allowed are names"),
        (["a", 3], r"found \['a', 3\]"),
        (["b", "a", "b"], "every name once\n  - 'b'"),
    ],
)
def test_class_names_that_cannot_be_told_apart_are_refused(
    names: list[object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"classes: .*{message}"):
        check_class_names(names)
