"""The elementwise linear recurrence: fast backends against the loop, pieces against the whole, and the choice."""

import logging

import pytest
import torch

from npimpute.scan import blocks, cpu_linear, reference, select

SHAPES = [(1, 1, 1), (2, 37, 5), (3, 32, 16), (5, 33, 7), (2, 1100, 3)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
FAST = pytest.mark.parametrize("run", [cpu_linear.linear_scan, blocks.linear_scan], ids=["numba", "blocks"])


def example(shape, dtype=torch.float64, seed=0):
    """Decays near 1, as the RG-LRU's are, and some of 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    a = 1 - torch.rand(*shape, generator=g, dtype=dtype).square() / 2
    a[torch.rand(*shape, generator=g) < 0.02] = 0
    a[torch.rand(*shape, generator=g) < 0.02] = 1
    b, state = (torch.randn(*size, generator=g, dtype=dtype) for size in (shape, (shape[0], shape[2])))
    return a, b, state


def assert_close(got, wanted, dtype):
    assert got.shape == wanted.shape and got.dtype == dtype
    assert (got - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


def assert_same_with_gradients(run, wanted_run, inputs, dtype):
    outputs = run(*inputs), wanted_run(*inputs)
    weights = [torch.randn_like(x) for x in outputs[0]]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(these, weights, strict=True)), inputs)
        for these in outputs
    ]
    for got, wanted in (*zip(*outputs, strict=True), *zip(*gradients, strict=True)):
        assert_close(got.detach(), wanted.detach(), dtype)


def test_the_loop_is_the_closed_form():
    a, b, state = example((2, 7, 3))
    h, last = reference.linear_scan(a, b, state)
    for t in range(7):
        wanted = a[:, : t + 1].prod(1) * state
        wanted = wanted + sum(a[:, s + 1 : t + 1].prod(1) * b[:, s] for s in range(t + 1))
        torch.testing.assert_close(h[:, t], wanted)
    torch.testing.assert_close(last, wanted)


@FAST
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_equals_the_loop_forward_and_backward(run, shape, dtype):
    inputs = [x.requires_grad_() for x in example(shape, dtype)]
    assert_same_with_gradients(run, reference.linear_scan, inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("b", "length", "d", "m"), [(1, 1, 1, 1), (2, 75, 5, 3), (3, 200, 4, 8)])
def test_selective_scan_in_blocks_equals_the_loop_forward_and_backward(b, length, d, m, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "STATE_BYTES", 40 * b * d * m * 4)  # so that there are pieces
    g = torch.Generator().manual_seed(length)
    u, B, C, state = (
        torch.randn(size, generator=g, dtype=dtype) for size in ((b, length, d), *2 * [(b, length, m)], (b, d, m))
    )
    delta, A = torch.rand(b, length, d, generator=g, dtype=dtype), -torch.rand(d, m, generator=g, dtype=dtype)
    inputs = [x.requires_grad_() for x in (u, delta, A, B, C, state)]
    assert_same_with_gradients(blocks.selective_scan, reference.selective_scan, inputs, dtype)
    for got, wanted in zip(blocks.selective_scan(*inputs[:5]), reference.selective_scan(*inputs[:5]), strict=True):
        assert_close(got.detach(), wanted.detach(), dtype)


def test_autocast_leaves_the_selective_scan_in_blocks_as_it_is():
    g = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(size, generator=g) for size in ((2, 70, 5), *2 * [(2, 70, 3)]))
    inputs = [x.requires_grad_() for x in (u, torch.rand(2, 70, 5, generator=g), -torch.rand(5, 3, generator=g), B, C)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, last = blocks.selective_scan(*inputs)
        found.append((y, last, *torch.autograd.grad(y.square().sum(), inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@FAST
def test_gradients_are_those_of_finite_differences(run):
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in example((2, 35, 2))])


@FAST
def test_the_last_state_alone_can_be_differentiated(run):
    inputs = [x.requires_grad_() for x in example((2, 40, 4))]
    got, wanted = (torch.autograd.grad(f(*inputs)[1].square().sum(), inputs) for f in (run, reference.linear_scan))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("run", [reference.linear_scan, cpu_linear.linear_scan, blocks.linear_scan])
@pytest.mark.parametrize("cuts", [(1, 2, 3), (32, 64), (60,), (7, 8, 53)])
def test_pieces_with_the_state_carried_are_the_whole(run, cuts):
    a, b, state = example((2, 70, 6))
    h, last = run(a, b, state)
    pieces = []
    for start, stop in zip((0, *cuts), (*cuts, 70), strict=True):
        out, state = run(a[:, start:stop], b[:, start:stop], state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), h)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("run", [reference.linear_scan, cpu_linear.linear_scan, blocks.linear_scan])
def test_without_a_state_it_starts_from_zero_and_without_steps_it_stays(run):
    a, b, state = example((3, 21, 4))
    torch.testing.assert_close(run(a, b), run(a, b, torch.zeros_like(state)))
    h, last = run(a[:, :0], b[:, :0], state)
    assert h.shape == (3, 0, 4) and torch.equal(last, state)


@FAST
def test_inputs_are_left_as_they_are(run):
    inputs = example((2, 40, 4))
    before = [x.clone() for x in inputs]
    run(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_numba_gives_the_same_bits_for_any_threads_and_any_batch():
    a, b, state = example((6, 40, 24), torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        h, _ = cpu_linear.linear_scan(a, b, state)
        torch.set_num_threads(4)
        many, _ = cpu_linear.linear_scan(a, b, state)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(h, many)
    assert torch.equal(cpu_linear.linear_scan(a[2:4], b[2:4], state[2:4])[0], h[2:4])


@FAST
def test_strong_decay_forgets_without_nan(run):
    a, b, state = example((1, 2000, 3), torch.float32)
    h, _ = run(a * 1e-4, b, state)
    torch.testing.assert_close(h[:, 1:], b[:, 1:] + 1e-4 * a[:, 1:] * b[:, :-1], rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_loop():
    inputs = example((2, 1100, 40), torch.float32)
    for got, wanted in zip(
        select.linear_scan(*(x.cuda() for x in inputs)), reference.linear_scan(*inputs), strict=True
    ):
        assert_close(got.cpu(), wanted, torch.float32)


def test_the_choice_and_its_reason(caplog):
    assert select.linear_backend("cpu", torch.float32) == ("numba", "compiled for this CPU")
    assert select.linear_backend("cuda", torch.float32)[0] == "torch"
    select._say.cache_clear()
    caplog.set_level(logging.INFO)
    a, b, state = example((1, 40, 2), torch.float32)
    wanted, _ = reference.linear_scan(a, b, state)
    for dtype in (torch.float32, torch.bfloat16):
        h, _ = select.linear_scan(*(x.to(dtype) for x in (a, b, state)))
        assert h.dtype == dtype
        torch.testing.assert_close(h.float(), wanted, rtol=0.1, atol=0.2 if dtype == torch.bfloat16 else 1e-5)
    assert [r.message for r in caplog.records] == [
        "linear scan: numba (compiled for this CPU)",
        "linear scan: torch (in blocks of steps side by side)",
    ]
