"""`loqua export` and `loqua import`."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from pipeline.clip.backbone import Backbone
from pipeline.clip.encoders import TextSide
from pipeline.prompts.file import load_prompt, save_prompt
from pipeline.serving.interop import class_embeddings
from tests.helpers.cli import loqua
from tests.helpers.coop_files import INIT, D, Learner, M, coupled, save_as_coop, stored
from tests.helpers.projects import REPOSITORY, edit_params
from tests.helpers.reference import load_into_coop


@pytest.fixture(autouse=True)
def _project(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose backbone is the tiny one; the current folder."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    edit_params(tmp_path, backbone__name=str(clip_folder))
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> str:
    """Run a command that succeeds; return what it printed."""
    done = loqua(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands_go_around(backbone: Backbone, tmp_path: Path) -> None:
    learner = save_as_coop(tmp_path / "model.pth.tar-50", torch.randn(M, D).half())
    prompt, back = tmp_path / "new" / "x.prompt", tmp_path / "back.pth"
    printed = run("import", "coop", tmp_path / "model.pth.tar-50", "--out", prompt)
    found, about = load_prompt(prompt, backbone.fingerprint)
    assert torch.equal(found.values()["context_MD"], learner.ctx.detach().float())
    assert (about["method"], about["source"]) == ("coop", "model.pth.tar-50")
    assert f"{2 * M * D} B of prompt, {prompt.stat().st_size - 2 * M * D} B of header" in printed

    run("export", "coop", prompt, "--out", back)
    again = Learner(torch.zeros(M, D))
    load_into_coop(back, again)
    assert torch.equal(again.ctx, learner.ctx.float())

    graph = tmp_path / "x.onnx"
    printed = run("export", "onnx", prompt, "--classes", "cat, red apple", "--out", graph)
    assert "2 classes, pictures of 32 x 32 pixels" in printed
    data = {"pictures": np.zeros((3, 3, 32, 32), np.uint8)}
    (found_NK,) = onnxruntime.InferenceSession(graph).run(None, data)
    assert np.allclose(found_NK.sum(axis=1), 1, atol=1e-5)

    out = tmp_path / "x.safetensors"
    run("export", "embeddings", prompt, "--classes", "cat, red apple", "--out", out)
    expected = class_embeddings(
        found, backbone.text_side(INIT, ["cat", "red apple"]), ["cat", "red apple"]
    )
    assert torch.equal(load_file(out)["class_embeddings"], expected)


def test_the_classes_are_those_that_the_prompt_was_learned_with(
    backbone: Backbone, text: TextSide, tmp_path: Path
) -> None:
    prompt, names = stored(text), ["dog", "tree"]
    save_prompt(tmp_path / "x.prompt", prompt, backbone.fingerprint, {"class_names": names})
    run("export", "embeddings", tmp_path / "x.prompt", "--out", tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")["class_embeddings"]
    assert torch.equal(found, class_embeddings(prompt, backbone.text_side(INIT, names), names))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("import coop none.pth --out o.prompt", "none.pth: "),
        ("export coop none.prompt --out o", "none.prompt: "),
        ("export coop other.prompt --out o", "other.prompt: "),
        ("export coop coupled.prompt --out o", "no plain context"),
        ("export embeddings x.prompt --out o", "x.prompt: holds no class names"),
        ("export embeddings x.prompt --classes a,,b --out o", "classes: "),
        ("export embeddings x.prompt --classes a,a --out o", "classes: "),
        ("export coop x.prompt --out x.prompt/o", "--out x.prompt/o: cannot be written"),
        ("export coop x.prompt --out folder", "--out folder: cannot be written"),
    ],
)
def test_a_mistake_is_an_error_and_leaves_no_file(
    backbone: Backbone, text: TextSide, tmp_path: Path, arguments: str, said: str
) -> None:
    save_prompt(tmp_path / "x.prompt", stored(text), backbone.fingerprint, None)
    save_prompt(tmp_path / "other.prompt", stored(text), "other", {})
    save_prompt(tmp_path / "coupled.prompt", coupled(), backbone.fingerprint, {})
    (tmp_path / "folder").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = loqua(*arguments.split())
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
