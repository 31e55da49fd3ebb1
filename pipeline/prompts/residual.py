"""Residual reparameterization of a prompt (Residual Prompt Tuning, arXiv 2305.03937).

Shapes: M rows (context tokens, or rows of a factor), X networks, 1 or M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.prompts.config import ResidualConfig


class Residual(nn.Module):
    """Add to every row the output of a small network for it.

    p' = p + LayerNorm(up(relu(down(p))))   (arXiv 2305.03937)

    At the start the network adds nothing: the gain of LayerNorm is zero, or `up` where there is
    none. (The paper starts both at random; next to the word embeddings of CLIP, which are far
    smaller than those of T5, that would hide the template.) `2 D H` parameters, and `2 D` for
    LayerNorm; times M if not shared.
    """

    anchor_MD: Tensor

    def __init__(self, config: ResidualConfig, anchor_MD: Tensor, generator: torch.Generator):
        """Draw the weights.

        Args:
            config: of the network.
            anchor_MD: added to the network's input, for rows that start at zero.
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

        self.down_XDH = uniform(n_networks, width, config.hidden)
        self.up_XHD = uniform(n_networks, config.hidden, width)
        self.gain_XD: nn.Parameter | None = None
        if config.layer_norm:
            self.gain_XD = nn.Parameter(anchor_MD.new_zeros(n_networks, width))
            self.shift_XD = nn.Parameter(anchor_MD.new_zeros(n_networks, width))
        else:
            nn.init.zeros_(self.up_XHD)

    def forward(self, rows_MD: Tensor) -> Tensor:
        """Return the rows plus the network's output, `[M, D]`."""
        read_MD = rows_MD + self.anchor_MD
        hidden_M1H = torch.relu(read_MD[:, None] @ self.down_XDH)
        added_MD = (hidden_M1H @ self.up_XHD)[:, 0]
        if self.gain_XD is not None:
            normal_MD = nn.functional.layer_norm(added_MD, added_MD.shape[-1:])
            added_MD = normal_MD * self.gain_XD + self.shift_XD
        return rows_MD + added_MD
