"""The ONNX graph gives what the predictor gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from pipeline.clip.backbone import Backbone
from pipeline.clip.similarity import logits
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.prompt import Prompt
from pipeline.serving.onnx_export import export_onnx, preprocessing
from pipeline.serving.predictor import Predictor
from tests.helpers.toy import CLASS_NAMES


def predictor(backbone: Backbone, **settings: object) -> Predictor:
    """A predictor with an untrained prompt whose values are random."""
    config = PromptConfig(init="a photo of a", n_ctx=4, **{"rank": "full", "bits": 16, **settings})  # type: ignore[arg-type]
    text = backbone.text_side(config.init, CLASS_NAMES, with_vision=config.depth > 0)
    width = text.vision.width if text.vision else 0
    prompt = Prompt(config, text.init_MD(4), 1, width)
    with torch.no_grad():
        for value in prompt.parameters():
            value += 0.1 * torch.randn_like(value)
    return Predictor(backbone, {"toy": prompt.store()}, {"toy": CLASS_NAMES})


@pytest.mark.parametrize(
    "settings",
    [{"rank": 1, "bits": 1}, {"depth": 2}],
    ids=["low-rank quantized", "prompts in both towers"],
)
def test_the_graph_equals_the_predictor_for_any_number_of_pictures(
    backbone: Backbone, tmp_path: Path, settings: dict[str, object]
) -> None:
    model, names = predictor(backbone, **settings), CLASS_NAMES[:5]
    path = tmp_path / "model.onnx"
    export_onnx(path, model, "toy", names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = preprocessing(model)["height"]
    for n_pictures in (1, 3, 7):
        pixels = np.random.default_rng(n_pictures).integers(0, 256, (n_pictures, size, size, 3))
        pictures = [Image.fromarray(one.astype(np.uint8)) for one in pixels]
        features = model.encode(torch.stack([model.transform(one) for one in pictures]), "toy")
        class_KE = model.embeddings("toy", names)
        expected = logits(features, class_KE, backbone.logit_scale).softmax(dim=-1)
        data = pixels.transpose(0, 3, 1, 2).astype(np.uint8)
        (found,) = session.run(None, {"pictures": data})
        assert found.shape == (n_pictures, len(names))
        assert np.abs(found - expected.numpy()).max() < 1e-4


def test_the_file_says_what_it_needs_to_be_used(backbone: Backbone, tmp_path: Path) -> None:
    model, path = predictor(backbone), tmp_path / "model.onnx"
    export_onnx(path, model, "toy", CLASS_NAMES)
    graph = onnx.load(path)
    about = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(about["class_names"]) == list(CLASS_NAMES)
    assert json.loads(about["preprocessing"]) == preprocessing(model)
    assert about["fingerprint"] == backbone.fingerprint
    assert graph.opset_import[0].version == 18
