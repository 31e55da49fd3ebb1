"""`python -m stages.exchange`, as the shell calls it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stages.exchange
from pipeline.clip.backbone import Backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.encoders import TextSide
from pipeline.core.errors import run_stage
from pipeline.params import load_params
from pipeline.prompts.file import load_prompt, save_prompt
from pipeline.serving.interop import (
    class_embeddings,
)
from tests.helpers.coop_files import INIT, D, Learner, M, coupled, save_as_coop, stored
from tests.helpers.reference import load_into_coop


@pytest.fixture
def command(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run `stages.exchange` with the tiny backbone, as the shell would."""
    tiny = BackboneConfig(name=str(clip_folder), pretrained=None, device="cpu")
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    changed = params.model_copy(update={"backbone": tiny})
    monkeypatch.setattr(stages.exchange, "load_params", lambda: changed)

    def run(*arguments: object) -> None:
        run_stage(lambda: stages.exchange.main([str(argument) for argument in arguments]))

    return run


def test_the_commands_go_around(
    command: Callable[..., None],
    backbone: Backbone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = save_as_coop(tmp_path / "model.pth.tar-50", torch.randn(M, D).half())
    prompt, back = tmp_path / "new" / "x.prompt", tmp_path / "back.pth"
    command("import-coop", tmp_path / "model.pth.tar-50", "--out", prompt)
    found, about = load_prompt(prompt, backbone.fingerprint)
    assert torch.equal(found.values()["context_MD"], learner.ctx.detach().float())
    assert (about["method"], about["source"]) == ("coop", "model.pth.tar-50")
    printed = capsys.readouterr().out
    assert f"{2 * M * D} B of prompt, {prompt.stat().st_size - 2 * M * D} B of header" in printed

    command("export-coop", prompt, "--out", back)
    again = Learner(torch.zeros(M, D))
    load_into_coop(back, again)
    assert torch.equal(again.ctx, learner.ctx.float())

    out = tmp_path / "x.safetensors"
    command("export-embeddings", prompt, "--classes", "cat, red apple", "--out", out)
    expected = class_embeddings(
        found, backbone.text_side(INIT, ["cat", "red apple"]), ["cat", "red apple"]
    )
    assert torch.equal(load_file(out)["class_embeddings"], expected)


def test_the_classes_are_those_that_the_prompt_was_learned_with(
    command: Callable[..., None], backbone: Backbone, text: TextSide, tmp_path: Path
) -> None:
    prompt, names = stored(text), ["dog", "tree"]
    save_prompt(tmp_path / "x.prompt", prompt, backbone.fingerprint, {"class_names": names})
    command("export-embeddings", tmp_path / "x.prompt", "--out", tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")["class_embeddings"]
    assert torch.equal(found, class_embeddings(prompt, backbone.text_side(INIT, names), names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import-coop", "none.pth", "--out", "o.prompt"], "none.pth: .*No such file"),
        (["export-coop", "none.prompt", "--out", "o"], "none.prompt: .*No such file"),
        (["export-coop", "other.prompt", "--out", "o"], "learned for a backbone .* other; found"),
        (["export-coop", "coupled.prompt", "--out", "o"], "has no plain context"),
        (["export-embeddings", "x.prompt", "--out", "o"], "x.prompt: names no classes; give them"),
        (["export-embeddings", "x.prompt", "--classes", "a,,b", "--out", "o"], "allowed are names"),
        (["export-embeddings", "x.prompt", "--classes", "a,a", "--out", "o"], "every name once"),
        (["export-coop", "x.prompt", "--out", "x.prompt/o"], "--out x.prompt/o: cannot be written"),
        (["export-coop", "x.prompt", "--out", "folder"], "--out folder: cannot be written"),
    ],
)
def test_a_mistake_is_an_error_and_leaves_no_file(
    command: Callable[..., None],
    backbone: Backbone,
    text: TextSide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_prompt(tmp_path / "x.prompt", stored(text), backbone.fingerprint, None)
    save_prompt(tmp_path / "other.prompt", stored(text), "other", {})
    save_prompt(tmp_path / "coupled.prompt", coupled(), backbone.fingerprint, {})
    (tmp_path / "folder").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
