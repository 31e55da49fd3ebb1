"""A linear layer whose weights never change, so that work on them is done once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenLinear(nn.Module):
    """`x W^T + b` with frozen W and b; gradients reach x alone.

    In float32 on a CPU the weights are stored in oneDNN's blocked layout, one copy for each
    direction, which saves the reordering that every plain product does. In lower precision a cast
    copy is stored. Copies are made at first use and not pickled. The results are those of
    `torch.nn.functional.linear` up to rounding.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Share the weights `[outputs, inputs]`, without a copy."""
        super().__init__()
        self.weight = frozen(weight)
        self.bias = None if bias is None else frozen(bias)
        self._prepared: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without prepared copies: they belong to one machine."""
        return {**self.__dict__, "_prepared": {}}

    def forward(self, x: Tensor) -> Tensor:
        """Return `[..., outputs]`, in the precision of the surrounding autocast."""
        device = self.weight.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            weight, bias = self._prepare(dtype)
            with torch.autocast(device, enabled=False):
                return F.linear(x.to(dtype), weight, bias)
        # torch 2.14 cannot export oneDNN's packed product, which has no kernel on meta tensors.
        packs = PACKS and not torch.compiler.is_exporting()
        if device == "cpu" and packs and self.weight.dtype == torch.float32:
            packed: Tensor = _PackedLinear.apply(x, *self._prepare("packed"), self.bias)
            return packed
        return F.linear(x, self.weight, self.bias)

    def _prepare(self, kind: Any) -> Any:
        """Return the weights in another form, made once per device."""
        key = (kind, self.weight.device)
        if key not in self._prepared:
            with torch.inference_mode(False), torch.no_grad():
                self._prepared[key] = self._pack() if kind == "packed" else self._cast(kind)
        return self._prepared[key]

    def _pack(self) -> tuple[Tensor, Tensor]:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        return reorder(self.weight), reorder(self.weight.t().contiguous())

    def _cast(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


def frozen(weight: Tensor) -> nn.Parameter:
    """Return a parameter that does not train: the one given, if it is a parameter."""
    if not isinstance(weight, nn.Parameter):
        weight = nn.Parameter(weight.detach(), requires_grad=False)
    weight.requires_grad_(False)
    return weight


class _PackedLinear(torch.autograd.Function):
    """The product with packed weights, and its gradient with respect to the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forth: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.back = back
        return _multiply(x, forth, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _multiply(grads[0], ctx.back, None), None, None, None


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return out


def _can_pack() -> bool:
    """Return whether this build of torch has oneDNN's packed product, and it is correct here.

    torch 2.14 offers it as private operators alone. A public one would replace this check.
    """
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    weight, x = torch.arange(6.0).view(2, 3), torch.ones(4, 3)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return torch.equal(_multiply(x, packed, None), x @ weight.t())
    except (RuntimeError, NotImplementedError):  # the operator is there, its kernel is not
        return False


PACKS = _can_pack()
