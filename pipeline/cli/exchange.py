"""`loqua export` and `loqua import`: prompts for and from other people's code."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from pipeline.cli.command import write

if TYPE_CHECKING:
    from pipeline.clip.backbone import Backbone
    from pipeline.params import Params

Prompt = Annotated[Path, Argument(metavar="PROMPT", help="Prompt file.")]
Out = Annotated[Path, Option(metavar="FILE", help="File to write.")]
Classes = Annotated[
    str | None,
    Option(metavar="A,B,C", help="Class names.", show_default="those of its training"),
]


def export_coop(prompt: Prompt, out: Out) -> None:
    """Write a prompt as a checkpoint that CoOp's code loads."""
    from pipeline.prompts.file import load_prompt
    from pipeline.serving.interop import save_coop

    _, backbone = load()
    stored, _ = load_prompt(prompt, backbone.fingerprint)
    text = backbone.text_side(stored.init, [])
    write(out, partial(save_coop, prompt=stored, text=text))
    print(f"{out}: ctx [{stored.n_ctx}, {backbone.text.width}]")


def export_embeddings(prompt: Prompt, out: Out, classes: Classes = None) -> None:
    """Write a prompt's class embeddings: a zero-shot classifier for any CLIP code."""
    from pipeline.prompts.file import load_prompt
    from pipeline.serving.interop import save_embeddings

    _, backbone = load()
    stored, about = load_prompt(prompt, backbone.fingerprint)
    names = class_names(classes, prompt, about)
    save = partial(
        save_embeddings,
        prompt=stored,
        text=backbone.text_side(stored.init, names),
        class_names=names,
        fingerprint=backbone.fingerprint,
    )
    write(out, save)
    print(f"{out}: {len(names)} classes")


def export_onnx(prompt: Prompt, out: Out, classes: Classes = None) -> None:
    """Write a prompt with its image tower as an ONNX graph: pictures in, probabilities out."""
    from pipeline.prompts.file import load_prompt
    from pipeline.serving.onnx_export import export_onnx, preprocessing
    from pipeline.serving.predictor import load_prompts

    _, backbone = load()
    _, about = load_prompt(prompt, backbone.fingerprint)
    names = class_names(classes, prompt, about)
    predictor = load_prompts({prompt.stem: prompt}, backbone)
    write(out, partial(export_onnx, predictor=predictor, task=prompt.stem, names=names))
    shape = preprocessing(predictor)
    print(f"{out}: {len(names)} classes, pictures of {shape['height']} x {shape['width']} pixels")


def import_coop(
    checkpoint: Annotated[Path, Argument(metavar="CHECKPOINT", help="Of CoOp or KgCoOp.")],
    out: Out,
) -> None:
    """Write the context of a CoOp checkpoint as a prompt file."""
    from pipeline.prompts.file import packed_size, save_prompt
    from pipeline.serving.interop import load_coop

    params, backbone = load()
    prompt = load_coop(checkpoint, backbone.text, params.prompt.init)
    about = {"method": "coop", "source": checkpoint.name, "backbone": params.backbone.model_dump()}
    write(out, partial(save_prompt, prompt=prompt, fingerprint=backbone.fingerprint, about=about))
    size = packed_size(out.read_bytes())
    print(f"{out}: {size.payload_bytes} B of prompt, {size.header_bytes} B of header")


def load() -> tuple[Params, Backbone]:
    """Return the parameters and their backbone, on the CPU."""
    from pipeline.clip.backbone import load_backbone
    from pipeline.params import load_params

    params = load_params()
    return params, load_backbone(params.backbone.on_cpu())


def class_names(listed: str | None, prompt: Path, about: Any) -> tuple[str, ...]:
    """Return the names that were asked for, or those that a prompt file holds.

    Raises:
        ValueError: if there are neither, or two are the same.
    """
    from pipeline.serving.interop import check_class_names

    if listed is not None:
        return check_class_names([name.strip() for name in listed.split(",")])
    names = about.get("class_names") if isinstance(about, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{prompt}: holds no class names; give them with --classes a,b,c")
    return check_class_names(names)
