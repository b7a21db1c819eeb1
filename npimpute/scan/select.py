"""Which backend runs a recurrence: the one place that decides, and says what it chose and why."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch
from torch import Tensor

from . import reference

log = logging.getLogger(__name__)


@cache
def scan_backend(device: str, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, reason) for ``selective_scan``: "numba", "mamba-ssm" or "torch". device: "cpu", "cuda", ..."""
    if device == "cpu":
        return _cpu_backend(dtype)
    return _cuda_backend("mamba_ssm", "mamba-ssm", device, dtype)


@cache
def linear_backend(device: str, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, reason) for ``linear_scan``: "numba" or "torch"."""
    if device == "cpu" and dtype in (torch.float32, torch.float64):
        return _cpu_backend(dtype)
    return "torch", "in blocks of steps side by side"


@cache
def conv_backend(device: str, dtype: torch.dtype, width: int) -> tuple[str, str]:
    """(backend, reason) for ``causal_conv``: "numba", "causal-conv1d" or "torch"."""
    if device == "cpu":
        return _cpu_backend(dtype)
    if not 2 <= width <= 4:
        return "torch", f"causal-conv1d takes widths 2 to 4, not {width}"
    return _cuda_backend("causal_conv1d", "causal-conv1d", device, dtype)


def _cpu_backend(dtype: torch.dtype) -> tuple[str, str]:
    if dtype in (torch.float32, torch.float64):
        return "numba", "compiled for this CPU"
    return "torch", f"the numba kernel takes float32 and float64, not {dtype}"


def _cuda_backend(module: str, package: str, device: str, dtype: torch.dtype) -> tuple[str, str]:
    if device != "cuda":
        return "torch", f"no kernel for {device}"
    if dtype == torch.float64:
        return "torch", f"{package} takes float32 and less, not {dtype}"
    if importlib.util.find_spec(module) is None:
        return "torch", f"{package} is not installed (slow: pip install {package})"
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return "torch", f"{package} does not load ({error})"
    return package, "installed"


@cache
def _say(what: str, backend: str, reason: str) -> None:
    log.info("%s: %s (%s)", what, backend, reason)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.selective_scan`` by the fastest backend for these tensors."""
    backend, reason = scan_backend(u.device.type, u.dtype)
    _say("selective scan", backend, reason)
    if backend == "numba":
        from .cpu import selective_scan as run
    elif backend == "mamba-ssm":
        from .gpu import selective_scan as run
    else:
        from .blocks import selective_scan as run
    return run(u, delta, A, B, C, state)


def linear_scan(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.linear_scan`` by the fastest backend for these tensors."""
    backend, reason = linear_backend(b.device.type, b.dtype)
    _say("linear scan", backend, reason)
    if backend == "numba":
        from .cpu_linear import linear_scan as run
    else:
        from .blocks import linear_scan as run
    return run(a, b, state)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.causal_conv`` by the fastest backend for these tensors."""
    backend, reason = conv_backend(x.device.type, x.dtype, weight.shape[1])
    _say("causal convolution", backend, reason)
    if backend == "numba":
        from .cpu import causal_conv as run
    elif backend == "causal-conv1d":
        from .gpu import causal_conv as run
    else:
        run = reference.causal_conv
    return run(x, weight, bias, state)
