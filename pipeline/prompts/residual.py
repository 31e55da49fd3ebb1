"""Residual reparameterization of a prompt (Residual Prompt Tuning, arXiv 2305.03937).

Shapes: M rows (context tokens, or rows of a factor), D text width, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.prompts.config import ResidualConfig


class Residual(nn.Module):
    """Add to every row what a small network makes of it.

    p' = p + LayerNorm(up(relu(down(p))))   (arXiv 2305.03937)

    At the start the network adds nothing: the gain of LayerNorm is zero, or `up` where there is
    none. (The paper starts both at random; next to the word embeddings of CLIP, which are far
    smaller than those of T5, that would drown the template.) `2 D H` parameters, and `2 D` for
    LayerNorm; times M if not shared.
    """

    anchor_MD: Tensor

    def __init__(self, config: ResidualConfig, anchor_MD: Tensor, generator: torch.Generator):
        """Draw the weights.

        Args:
            config: what the network is like.
            anchor_MD: added to the rows before the network reads them, for rows that start at
                zero and would give it nothing to read.
            generator: of the weights, uniform as in torch's linear layers.
        """
        super().__init__()
        n_rows, width = anchor_MD.shape
        n_networks = 1 if config.shared else n_rows
        self.register_buffer("anchor_MD", anchor_MD.detach().clone())

        def uniform(*shape: int) -> nn.Parameter:
            bound = shape[1] ** -0.5
            values = torch.rand(n_networks, *shape[1:], generator=generator)
            return nn.Parameter((bound * (2 * values - 1)).to(anchor_MD))

        self.down_NDH = uniform(n_networks, width, config.hidden)
        self.up_NHD = uniform(n_networks, config.hidden, width)
        self.gain_ND: nn.Parameter | None = None
        if config.layer_norm:
            self.gain_ND = nn.Parameter(anchor_MD.new_zeros(n_networks, width))
            self.shift_ND = nn.Parameter(anchor_MD.new_zeros(n_networks, width))
        else:
            nn.init.zeros_(self.up_NHD)

    def forward(self, rows_MD: Tensor) -> Tensor:
        """Return the rows with what the network adds, `[M, D]`."""
        read_MD = rows_MD + self.anchor_MD
        hidden_M1H = torch.relu(read_MD[:, None] @ self.down_NDH)
        added_MD = (hidden_M1H @ self.up_NHD)[:, 0]
        if self.gain_ND is not None:
            normal_MD = nn.functional.layer_norm(added_MD, added_MD.shape[-1:])
            added_MD = normal_MD * self.gain_ND + self.shift_ND
        return rows_MD + added_MD
