"""The recurrences: fast backends against the loop, pieces against the whole, and which backend is chosen."""

import logging
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from npimpute.scan import cpu, gpu, reference, select

SHAPES = [(1, 1, 1, 1), (2, 37, 5, 3), (3, 16, 16, 8), (2, 33, 65, 16), (5, 100, 8, 4)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def example(shape, dtype=torch.float64, seed=0):
    b, length, d, m = shape
    g = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=dtype)

    delta, A = F.softplus(normal(b, length, d)), -torch.exp(normal(d, m))
    return normal(b, length, d), delta, A, normal(b, length, m), normal(b, length, m), normal(b, d, m)


def assert_close(got, wanted, dtype):
    assert got.shape == wanted.shape and got.dtype == dtype
    assert (got - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max().clamp(min=1e-3)


def assert_same_with_gradients(run, reference_run, inputs, dtype):
    wanted, got = reference_run(*inputs), run(*inputs)
    weights = [torch.randn_like(x) for x in wanted]
    gradients = []
    for outputs in (wanted, got):
        loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, inputs))
    for pair in (*zip(got, wanted, strict=True), *zip(gradients[1], gradients[0], strict=True)):
        if pair[0].numel():
            assert_close(*(x.detach() for x in pair), dtype)


def test_the_loop_is_the_closed_form():
    u, delta, A, B, C, h0 = example((2, 6, 3, 2))
    y, h = reference.selective_scan(u, delta, A, B, C, h0)
    for t in range(6):
        state = torch.exp(delta[:, : t + 1].sum(1)[..., None] * A) * h0
        for s in range(t + 1):
            decay = torch.exp(delta[:, s + 1 : t + 1].sum(1)[..., None] * A)
            state = state + decay * (delta[:, s] * u[:, s])[..., None] * B[:, s, None]
        torch.testing.assert_close(y[:, t], (state * C[:, t, None]).sum(-1))
    torch.testing.assert_close(h, state)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numba_equals_the_loop_forward_and_backward(shape, dtype):
    inputs = [x.requires_grad_() for x in example(shape, dtype)]
    assert_same_with_gradients(cpu.selective_scan, reference.selective_scan, inputs, dtype)


def test_numba_gradients_are_those_of_finite_differences():
    inputs = [x.requires_grad_() for x in example((2, 19, 3, 2))]
    assert torch.autograd.gradcheck(cpu.selective_scan, inputs)


def test_the_state_alone_can_be_differentiated():
    inputs = [x.requires_grad_() for x in example((2, 20, 4, 3))]
    for run in (reference.selective_scan, cpu.selective_scan):
        run(*inputs)[1].square().sum().backward()
    doubled = inputs[0].grad.clone()
    inputs[0].grad = None
    cpu.selective_scan(*inputs)[1].square().sum().backward()
    torch.testing.assert_close(doubled, 2 * inputs[0].grad)


@pytest.mark.parametrize("run", [reference.selective_scan, cpu.selective_scan], ids=["loop", "numba"])
@pytest.mark.parametrize("cuts", [(1, 2, 3), (16, 32), (40,), (7, 8, 23)])
def test_pieces_with_the_state_carried_are_the_whole(run, cuts):
    u, delta, A, B, C, state = example((2, 50, 6, 4))
    y, h = run(u, delta, A, B, C, state)
    pieces = []
    for start, stop in zip((0, *cuts), (*cuts, 50), strict=True):
        part = slice(start, stop)
        out, state = run(u[:, part], delta[:, part], A, B[:, part], C[:, part], state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), y)
    torch.testing.assert_close(state, h)


def test_without_a_state_it_starts_from_zero():
    *inputs, state = example((3, 21, 4, 3))
    torch.testing.assert_close(cpu.selective_scan(*inputs), cpu.selective_scan(*inputs, torch.zeros_like(state)))


def test_numba_gives_the_same_bits_for_any_threads_and_any_batch():
    inputs = example((6, 40, 24, 8), torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        y, h = cpu.selective_scan(*inputs)
        torch.set_num_threads(4)
        many = cpu.selective_scan(*inputs)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(y, many[0]) and torch.equal(h, many[1])
    u, delta, A, B, C, state = inputs
    assert torch.equal(cpu.selective_scan(u[2:4], delta[2:4], A, B[2:4], C[2:4], state[2:4])[0], y[2:4])


def test_strong_decay_forgets_without_nan():
    u, delta, A, B, C, state = example((1, 30, 8, 4), torch.float32)
    y, h = cpu.selective_scan(u, delta * 1e4, A, B, C, state)
    assert torch.isfinite(y).all() and torch.isfinite(h).all()


@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_convolution_is_torchs(width):
    g = torch.Generator().manual_seed(width)
    x, weight = torch.randn(3, 20, 5, generator=g), torch.randn(5, width, generator=g)
    bias, state = torch.randn(5, generator=g), torch.randn(3, width - 1, 5, generator=g)
    out, left = reference.causal_conv(x, weight, bias, state)
    whole = torch.cat([state, x], 1).transpose(1, 2)
    torch.testing.assert_close(out, F.conv1d(whole, weight[:, None], bias, groups=5).transpose(1, 2))
    first, between = reference.causal_conv(x[:, :1], weight, bias, state)
    rest, end = reference.causal_conv(x[:, 1:], weight, bias, between)
    torch.testing.assert_close(torch.cat([first, rest], 1), out)
    torch.testing.assert_close(end, left)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("length", "width"), [(20, 4), (3, 4), (1, 2), (17, 1), (40, 7)])
def test_numba_convolution_equals_the_loop_forward_and_backward(length, width, dtype):
    g = torch.Generator().manual_seed(length)
    sizes = [(3, length, 5), (5, width), (5,), (3, width - 1, 5)]
    inputs = [torch.randn(size, generator=g, dtype=dtype).requires_grad_() for size in sizes]
    assert_same_with_gradients(cpu.causal_conv, reference.causal_conv, inputs, dtype)


def test_numba_convolution_without_bias_or_state():
    x, weight = torch.randn(2, 9, 3), torch.randn(3, 4)
    for got, wanted in zip(cpu.causal_conv(x, weight, None), reference.causal_conv(x, weight, None), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for the CUDA packages: their interfaces, by the loops."""

    def scan(u, delta, A, B, C, return_last_state):
        assert return_last_state
        y, last = reference.selective_scan(
            *(x.transpose(1, 2) for x in (u, delta)), A, *(x.transpose(1, 2) for x in (B, C))
        )
        return y.transpose(1, 2), last

    def conv(x, weight, bias):
        return F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=x.shape[1])

    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface", "causal_conv1d")
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[2]].selective_scan_fn, modules[names[3]].causal_conv1d_fn = scan, conv
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("steps", [1, 7, 256])
def test_gpu_wrappers_carry_the_state_that_the_packages_do_not(packages, monkeypatch, steps):
    monkeypatch.setattr(gpu, "STATE_STEPS", steps)
    inputs = example((2, 30, 6, 4))
    for got, wanted in zip(gpu.selective_scan(*inputs), reference.selective_scan(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)
    weight, bias, state = torch.randn(6, 4).double(), torch.randn(6).double(), torch.randn(2, 3, 6).double()
    for before in (state, None):
        wanted = reference.causal_conv(inputs[0], weight, bias, before)
        for a, b in zip(gpu.causal_conv(inputs[0], weight, bias, before), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_autocast_leaves_what_gpu_wrappers_carry_as_it_is():
    _, delta, A, _, C, state = example((2, 30, 6, 4), torch.float32)
    wanted = gpu._carry(delta, A, C, state)
    with torch.autocast("cpu", torch.bfloat16):
        got = gpu._carry(delta, A, C, state)
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_equals_the_loop(shape):
    inputs = example(shape, torch.float32)
    wanted = reference.selective_scan(*inputs)
    for got, want in zip(select.selective_scan(*(x.cuda() for x in inputs)), wanted, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=6e-4, atol=2e-3)


def test_the_choice_and_its_reason(caplog):
    assert select.scan_backend("cpu", torch.float32)[0] == "numba"
    backend, reason = select.scan_backend("cpu", torch.bfloat16)
    assert backend == "torch" and "bfloat16" in reason
    assert select.scan_backend("mps", torch.float32)[0] == "torch"
    if "mamba_ssm" not in sys.modules and not torch.cuda.is_available():
        assert "mamba-ssm is not installed" in select.scan_backend("cuda", torch.float32)[1]
    assert select.conv_backend("cpu", torch.float32, 9)[0] == "numba"
    assert select.conv_backend("cpu", torch.bfloat16, 4)[0] == "torch"
    for found in (select.scan_backend("cuda", torch.float64), select.conv_backend("cuda", torch.float64, 4)):
        assert found[0] == "torch" and "float32 and less, not torch.float64" in found[1]
    assert select.conv_backend("cuda", torch.float32, 9) == ("torch", "causal-conv1d takes widths 2 to 4, not 9")
    select._say.cache_clear()
    caplog.set_level(logging.INFO)
    inputs = example((1, 3, 2, 2), torch.float32)
    for _ in range(2):
        select.selective_scan(*inputs)
    assert [r.message for r in caplog.records] == ["selective scan: numba (compiled for this CPU)"]


def test_numba_exp_is_accurate():
    # One step from 0: y = delta u B C, so a carried 1 decays by exp(delta A) exactly once.
    x = np.linspace(-80, 0, 4001, dtype=np.float32)
    delta = torch.ones(1, 1, len(x))
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, len(x), 1)
    _, h = cpu.selective_scan(delta * 0, delta, torch.from_numpy(x)[:, None], zero, zero, one)
    np.testing.assert_allclose(h[0, :, 0].numpy(), np.exp(x.astype(np.float64)), rtol=4e-7)
