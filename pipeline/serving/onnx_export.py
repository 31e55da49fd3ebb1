"""A prompt with its class names and its image tower as one ONNX graph.

Shapes: N pictures, H = W pixels, K classes, E joint embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.similarity import logits
from pipeline.serving.predictor import Predictor

OPSET = 18
INPUT, OUTPUT = "pictures", "probabilities"


class PictureClassifier(nn.Module):
    """Pictures in, probabilities out; the class embeddings are constants of the graph."""

    mean_311: Tensor
    std_311: Tensor
    class_KE: Tensor

    def __init__(self, predictor: Predictor, task: str, names: Sequence[str]) -> None:
        """Compute the class embeddings of a task's prompt."""
        super().__init__()
        self.visual, self.vision = predictor.backbone.model.visual, predictor.vision
        self.logit_scale = predictor.backbone.logit_scale
        found = self.visual.preprocess_cfg
        self.register_buffer("mean_311", torch.tensor(found["mean"])[:, None, None])
        self.register_buffer("std_311", torch.tensor(found["std"])[:, None, None])
        self.register_buffer("class_KE", predictor.embeddings(task, tuple(names)).float())
        self.prompt_SJMW = predictor.vision_prompts(task)

    def forward(self, pictures_N3HW: Tensor) -> Tensor:
        """Return probabilities `[N, K]` of pictures, uint8, resized and cropped.

        p = softmax(logit_scale * cos(image, class))   (arXiv 2103.00020)
        """
        scaled_N3HW = (pictures_N3HW.float() / 255 - self.mean_311) / self.std_311
        if self.prompt_SJMW is None:
            image_NE = self.visual(scaled_N3HW)
        else:
            assert self.vision is not None
            token_NLW = self.vision.embed(scaled_N3HW)
            image_NE = self.vision.encode_at_once(token_NLW[None], self.prompt_SJMW)[0]
        image_NE = F.normalize(image_NE, dim=-1)
        return logits(image_NE, self.class_KE, self.logit_scale).softmax(dim=-1)


def preprocessing(predictor: Predictor) -> dict[str, Any]:
    """Return what must happen to a picture before the graph sees it."""
    found = predictor.backbone.model.visual.preprocess_cfg
    size = found["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "colours": "RGB, upright (EXIF orientation applied), on white if transparent",
        "resize": found["resize_mode"],
        "interpolation": found["interpolation"],
        "height": int(height),
        "width": int(width),
        "crop": "centre",
        "type": "uint8, [N, 3, height, width]; scaling and normalization are in the graph",
    }


def export_onnx(path: Path, predictor: Predictor, task: str, names: Sequence[str]) -> None:
    """Write a graph from pictures to probabilities; the number of pictures is free.

    The graph's metadata has `class_names`, `preprocessing` and `fingerprint` (of the backbone), as
    JSON. It equals the predictor up to rounding.

    Args:
        path: of the `.onnx` file; weights are inside it.
        predictor: with the prompt of `task`.
        task: whose prompt is used.
        names: of the classes, in the order of the output's columns.

    Raises:
        ValueError: if the onnx packages are missing, or a name is too long for the text tower.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it and imports it late)
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed; expected: pip install 'loqua[onnx]'"
        ) from None
    model = PictureClassifier(predictor, task, names).eval()
    shape = preprocessing(predictor)
    example = torch.zeros(2, 3, shape["height"], shape["width"], dtype=torch.uint8)
    with torch.inference_mode():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"pictures_N3HW": {0: torch.export.Dim("n_pictures", min=1)}},
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    onnx.helper.set_model_props(
        graph,
        {
            "class_names": json.dumps(list(names)),
            "preprocessing": json.dumps(shape),
            "fingerprint": predictor.backbone.fingerprint,
        },
    )
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())
