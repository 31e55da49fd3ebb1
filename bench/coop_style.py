"""The baseline: what a careful user of public prompt-learning code runs.

Token embeddings of everything but the context are looked up once, the towers are frozen, images
are encoded without gradients; same threads and allocator as ours.

Shapes: K classes, M context tokens, L positions, D text width, B images of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 100
"""Classes of a pass: more do not fit the memory at 77 positions."""


class PlainText:
    """`SOS [context] name . EOS` through open_clip's own blocks, every class on its own."""

    def __init__(self, model: Any, names: list[list[int]], n_ctx: int, truncate: bool) -> None:
        """Look up the embeddings around the context.

        Args:
            model: an open_clip `CLIP`.
            names: token ids of the class names, full stop included.
            n_ctx: M.
            truncate: to the longest name, instead of all 77 positions.
        """
        self.model, self.n_ctx = model, n_ctx
        length = model.positional_embedding.shape[0]
        if truncate:
            length = max(len(name) for name in names) + n_ctx + 2
        sos, eos = model.vocab_size - 2, model.vocab_size - 1
        rest = [[*name, eos] for name in names]
        tokens_KL = torch.tensor(
            [[sos] + [0] * n_ctx + name + [0] * (length - 1 - n_ctx - len(name)) for name in rest]
        )
        with torch.no_grad():
            self.embeddings_KLD = model.token_embedding(tokens_KL)
        self.eos_K = torch.tensor([n_ctx + len(name) for name in rest])
        self.mask = model.attn_mask[:length, :length]

    def __call__(self, context_MD: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the class embeddings `[K, E]` of some classes."""
        embeddings_KLD = self.embeddings_KLD[start:stop]
        context_KMD = context_MD.expand(len(embeddings_KLD), -1, -1)
        before, after = embeddings_KLD[:, :1], embeddings_KLD[:, 1 + self.n_ctx :]
        x_KLD = torch.cat([before, context_KMD, after], dim=1)
        x_KLD = x_KLD + self.model.positional_embedding[: x_KLD.shape[1]]
        x_KLD = self.model.transformer(x_KLD, attn_mask=self.mask)
        x_KD = self.model.ln_final(x_KLD[torch.arange(len(x_KLD)), self.eos_K[start:stop]])
        class_KE: Tensor = x_KD @ self.model.text_projection
        return class_KE

    def step(self, context_MD: Tensor, weight_KE: Tensor) -> tuple[Tensor, Tensor]:
        """Run forward and backward of `sum(weight * embeddings)`; return embeddings, gradient."""
        context_MD = context_MD.clone().requires_grad_()
        out = []
        for start in range(0, len(weight_KE), CHUNK):
            class_KE = self(context_MD, start, start + CHUNK)
            (class_KE * weight_KE[start : start + CHUNK]).sum().backward()
            out.append(class_KE.detach())
        assert context_MD.grad is not None
        return torch.cat(out), context_MD.grad


class CoopLoop:
    """CoOp's training loop: the image tower at every step, 77 text positions."""

    def __init__(
        self, model: Any, names: list[list[int]], init_MD: Tensor, images_B3HW: Tensor
    ) -> None:
        """Prepare; `images_B3HW` stands for every batch (the content does not change the time)."""
        self.model, self.images_B3HW = model, images_B3HW
        self.text = PlainText(model, names, len(init_MD), truncate=False)
        self.label_B = torch.arange(len(images_B3HW)) % len(names)
        self.context_MD = torch.nn.Parameter(init_MD.clone())
        self.optimizer = torch.optim.SGD(
            [self.context_MD], lr=0.002, momentum=0.9, weight_decay=5e-4
        )

    def step(self) -> None:
        """Train on one batch."""
        with torch.no_grad():
            image_BE = F.normalize(self.model.encode_image(self.images_B3HW), dim=-1)
        class_KE = F.normalize(self.text(self.context_MD), dim=-1)
        loss = F.cross_entropy(100 * image_BE @ class_KE.T, self.label_B)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
