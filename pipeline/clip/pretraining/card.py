"""The model card of the embedded backbone, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pipeline.clip.pretraining.config import PretrainConfig

LICENSES = {
    "openmoji": "OpenMoji, HfG Schwäbisch Gmünd, CC-BY-SA-4.0",
    "fxemoji": "Firefox OS Emoji, Mozilla, Apache-2.0",
    "emojione-v1": "EmojiOne 1.5, CC-BY-SA-4.0",
    "noto-v1": "Noto Emoji (first design), Google, Apache-2.0",
    "fluent-flat": "Fluent Emoji (flat), Microsoft, MIT",
    "fluent": "Fluent Emoji (shaded), Microsoft, MIT",
}


def model_card(
    config: PretrainConfig,
    rows: Sequence[Mapping[str, Any]],
    loss: float,
    data_hash: str,
    versions: Mapping[str, str],
) -> str:
    """Return the card as Markdown: use, recipe, data and licenses, figures, limits.

    Args:
        config: the recipe.
        rows: zero-shot results, one per task: `task`, `base`, `new`, `held_out_base` and
            `held_out_new`.
        loss: mean contrastive loss of the last steps.
        data_hash: SHA-256 of the drawings.
        versions: of the packages that trained it.
    """
    styles = "\n".join(f"- {style}: {LICENSES.get(style, style)}" for style in config.styles)
    recipe = "\n".join(
        f"| {key} | {value} |" for key, value in config.model_dump().items() if key != "styles"
    )
    table = "\n".join(
        f"| {row['task']} | {_percent(row['base'])} | {_percent(row['new'])} | "
        f"{_percent(row['held_out_base'])} | {_percent(row['held_out_new'])} |"
        for row in rows
    )
    average = " | ".join(
        _percent(mean(values))
        for values in (
            [row["base"] for row in rows],
            [row["new"] for row in rows],
            [row["held_out_base"] or 0.0 for row in rows],
            [row["held_out_new"] or 0.0 for row in rows],
        )
    )
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"""# Loqua's embedded backbone

A tiny CLIP (open_clip's own class and tokenizer) pretrained from scratch on emoji drawings and
their names. It exists so that the whole pipeline runs on real pictures in minutes; it knows
nothing but emoji.

    model = open_clip.create_model("local-dir:artifacts/pretrain")

`open_clip_model.safetensors` holds the weights in half precision. Rows of the token table that
no caption uses are zero: words that no drawing was named or tagged with mean nothing to it.

## Training

Contrastive loss. A picture is a random drawing of a concept in a random pose on a random
background, with varied colours; its caption is made of the concept's name or tags. A quarter of a
batch shows a concept for the second time, in another style: captions of such pairs name the true
style and background in front of the name, so that the text tower heeds what precedes a name.
AdamW (beta2 0.98), linear warm-up, cosine decay, gradients clipped to norm 1, bfloat16 autocast
on CPU. Final loss {loss:.3f}. Made with {packages}.

| setting | value |
|---|---|
{recipe}

## Data and licenses

The drawings of `data/emoji.parquet` (SHA-256 `{data_hash}`) in these styles:

{styles}

Names, groups and tags: emojibase-data (MIT). noto, twemoji and emojione were never shown. As the
styles include share-alike artwork, the weights are offered under CC-BY-SA-4.0.

## Zero-shot accuracy, percent

Test poses, "a drawing of a {{}}", base and new classes apart. The first pair is noto + twemoji,
the second the held-out style emojione; none of the three was pretrained on, but their concepts
were, in other styles.

| task | base | new | held-out base | held-out new |
|---|---|---|---|---|
{table}
| **mean** | {average} |

Mean of base and new: {_percent(mean([row[side] for row in rows for side in ("base", "new")]))}.

## Limits

Drawings on plain backgrounds only; English CLDR names; {config.context_length} token positions.
Six symbols whose names end in punctuation ("keycap: #", "A button (blood type)", ...) share part of
their tokens with no caption, so their embeddings are poor.
Not a general vision-language model.
"""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
