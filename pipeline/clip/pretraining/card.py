"""The model card of the embedded backbone, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.data.config import EmojiTask
from pipeline.data.datasets.conditions import NAMED

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
    tasks: Mapping[str, EmojiTask],
    init: str,
    general: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    loss: float,
    data_hash: str,
    versions: Mapping[str, str],
) -> str:
    """Return the card as Markdown: use, recipe, data and licenses, figures, limits.

    Args:
        config: the recipe.
        tasks: what each task shows.
        init: the words of the general template.
        general: zero-shot results with the general template, one row per task: `task`, `base`,
            `new`, `held_out_base` and `held_out_new`.
        own: the same with the tasks' own templates.
        loss: mean contrastive loss of the last steps.
        data_hash: SHA-256 of the drawings.
        versions: of the packages that trained it.
    """
    styles = "\n".join(f"- {style}: {LICENSES.get(style, style)}" for style in config.styles)
    recipe = "\n".join(
        f"| {key} | {value} |" for key, value in config.model_dump().items() if key != "styles"
    )
    shown = "\n".join(
        f"| {name} | {', '.join(task.conditions) or 'plain'} | {task.template} |"
        for name, task in tasks.items()
    )
    table = "\n".join(
        f"| {both[0]['task']} | {cells([both[0]], [both[1]])} |"
        for both in zip(general, own, strict=True)
    )
    average = cells(general, own)
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"""# Loqua's embedded backbone

A tiny CLIP (open_clip's own class and tokenizer) pretrained from scratch on emoji drawings and
their names. It exists so that the whole pipeline runs on real pictures in minutes; it knows
nothing but emoji, shown plain and under named conditions.

    model = open_clip.create_model("local-dir:artifacts/pretrain")

`open_clip_model.safetensors` holds the weights in half precision. Rows of the token table that
no caption uses are zero: words that no drawing was named or tagged with mean nothing to it.

## Training

Contrastive loss. A picture is a random drawing of a concept in a random pose on a random
background, with varied colours, plain or under one or two conditions. A batch has few conditions
and shows each of its concepts under two of them; captions name the conditions in front of the
name ("this is a night blurred drawing of a ..."). So only the words in front of a name tell some
captions of a batch apart, and the name others. Named conditions: {", ".join(NAMED)}.
AdamW (beta2 0.98), linear warm-up, plateau, linear decay, gradients clipped to norm 1, float32.
Final loss {loss:.3f}. Made with {packages}. `start` names the weights that the training starts
from (data/README.md).

| setting | value |
|---|---|
{recipe}

## Data and licenses

The drawings of `data/emoji.parquet` (SHA-256 `{data_hash}`) in these styles:

{styles}

Names, groups and tags: emojibase-data (MIT). noto, twemoji and emojione were never shown. As the
styles include share-alike artwork, the weights are offered under CC-BY-SA-4.0.

## Zero-shot accuracy, percent

Test poses, base / new classes. *General*: "{init} {{}}.", where tuning starts; *own*: the task's
own template. The last two columns show the held-out style emojione. The styles of the tasks
were not pretrained on, but their concepts were, in other styles.

| task | conditions | own template |
|---|---|---|
{shown}

| task | general | own | held-out, general | held-out, own |
|---|---|---|---|---|
{table}
| **mean** | {average} |

## Limits

Drawings on plain backgrounds, under fixed changes of the whole picture; English CLDR
names; {config.context_length} token positions.
Six symbols whose names end in punctuation ("keycap: #", "A button (blood type)", ...) share part of
their tokens with no caption, so their embeddings are poor.
Not a general vision-language model.
"""


def cells(*columns: Sequence[Mapping[str, Any]]) -> str:
    """Return `base / new` of each column's rows on average, shot styles before held-out ones."""
    found = []
    for prefix in ("", "held_out_"):
        for rows in columns:
            sides = (
                mean(row[f"{prefix}{side}"] or 0.0 for row in rows) for side in ("base", "new")
            )
            found.append(" / ".join(f"{100 * side:.1f}" for side in sides))
    return " | ".join(found)
