"""Parts of a network that keep their input alone for the backward pass, where they are computed again in pieces.

Source: Chen et al. 2016, arXiv 1604.06174, section 4.1. In pieces, because what is held at a time is then that of a
piece; with gradients written in place, because pieces that leave something behind between them fragment a CPU's heap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# Embedded tokens of a piece, by kind of device: little on a CPU, where it costs no time, enough to fill a GPU.
PIECE_TOKENS = {"cpu": 1 << 10, "cuda": 1 << 17}


def in_pieces(function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, dim: int) -> Tensor:
    """``function(x)``, where function takes every place along ``dim`` by itself and leaves their number as it is.

    x: (..., d). function: draws no random numbers; its parameters are ``module``'s. Output and gradients are those of
    ``function(x)`` up to rounding. A piece is of ``PIECE_TOKENS``, at least one place.
    """
    most = PIECE_TOKENS[x.device.type]
    size = max(1, most * x.shape[-1] * x.shape[dim] // x.numel())
    return _InPieces.apply(function, dim, size, x, *(p for p in module.parameters() if p.requires_grad))


def _pieces(x: Tensor, dim: int, size: int) -> Iterator[tuple[int, int]]:
    n = x.shape[dim]
    return ((first, min(size, n - first)) for first in range(0, n, size))


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, dim, size, x, *weights):
        kind = x.device.type
        ctx.function, ctx.dim, ctx.size = function, dim, size
        ctx.precision = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.save_for_backward(x, *weights)
        out = None
        for first, count in _pieces(x, dim, size):
            y = function(x.narrow(dim, first, count))
            if out is None:
                shape = list(y.shape)
                shape[dim] = x.shape[dim]
                out = y.new_empty(shape)
            out.narrow(dim, first, count).copy_(y)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, *weights = ctx.saved_tensors
        grad_x, sums = torch.empty_like(x), [torch.zeros_like(w) for w in weights]
        kind, precision, enabled = ctx.precision
        for first, count in _pieces(x, ctx.dim, ctx.size):
            piece = x.narrow(ctx.dim, first, count).detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(kind, precision, enabled=enabled):
                y = ctx.function(piece)
            own, *found = torch.autograd.grad(y, (piece, *weights), grad.narrow(ctx.dim, first, count))
            grad_x.narrow(ctx.dim, first, count).copy_(own)
            for total, part in zip(sums, found, strict=True):
                total += part
            del y, own, found, part  # before the next piece takes memory
        return None, None, None, grad_x, *sums
