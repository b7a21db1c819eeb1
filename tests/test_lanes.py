"""Vectors of sixteen numbers in compiled kernels."""

import numba
import numpy as np
import pytest

from npimpute.engine.lanes import LANES, above, exp, first_bit, greater, less, load, log, spread, store

KINDS = {"plain": {}, "fastmath": {"fastmath": {"contract", "nsz"}}}


def compiled(function, kind="plain"):
    return numba.njit(error_model="numpy", **KINDS[kind])(function)


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, LANES)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_loaded_computed_with_and_stored_lane_by_lane(kind):
    def kernel(x, y, out):
        for i in range(len(x)):
            a, b = load(x, i), load(y, i)
            store(out, 7 * i, a + b)
            store(out, 7 * i + 1, a - b)
            store(out, 7 * i + 2, a * b)
            store(out, 7 * i + 3, a / b)
            store(out, 7 * i + 4, greater(a, b))
            store(out, 7 * i + 5, less(a, b))
            store(out, 7 * i + 6, spread(x[i, 3]))

    x, y, out = numbers(5), numbers(5, seed=2), numbers(5, 7)
    compiled(kernel, kind)(x, y, out)
    each = (x + y, x - y, x * y, x / y, np.maximum(x, y), np.minimum(x, y), np.repeat(x[:, 3:4], LANES, axis=1))
    np.testing.assert_array_equal(out, np.stack(each, axis=1))


def test_a_vector_of_an_array_of_more_axes_is_counted_from_the_first_on():
    def kernel(x, part, out):
        store(out, 0, load(x, 4))
        store(out, 1, load(part, 1))

    x, out = numbers(3, 2), numbers(2)
    compiled(kernel)(x, x[1], out)
    np.testing.assert_array_equal(out, [x[2, 0], x[1, 1]])


def test_lanes_that_are_above_are_found_in_turn():
    def kernel(x, y, out):
        bits, n = above(load(x, 0), load(y, 0)), 0
        while bits:
            out[n] = first_bit(bits)
            bits &= bits - 1
            n += 1
        return n

    x, y, out = numbers(1), numbers(1, seed=2), np.zeros(LANES, np.int64)
    x[0, 5] = y[0, 5] = 1
    x[0, 6] = np.nan
    n = compiled(kernel)(x, y, out)
    assert out[:n].tolist() == np.flatnonzero(x[0] > y[0]).tolist() and 0 < n < LANES - 2


@pytest.mark.parametrize("kind", KINDS)
def test_exponentials_and_logarithms(kind):
    def kernel(x, y, out):
        for i in range(len(x)):
            store(out, 2 * i, exp(load(x, i)))
            store(out, 2 * i + 1, log(load(y, i)))

    x = np.linspace(-87, 88, 500 * LANES).astype(np.float32).reshape(-1, LANES)
    y = np.exp(np.linspace(-87, 88, x.size)).astype(np.float32).reshape(x.shape)
    x[0, :2], y[0, :2] = (0, 1), (1, np.e)
    out = np.empty((len(x), 2, LANES), np.float32)
    compiled(kernel, kind)(x, y, out)
    np.testing.assert_allclose(out[:, 0], np.exp(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_allclose(out[:, 1], np.log(y.astype(np.float64)), rtol=2e-7, atol=2e-7)
    assert (out[0, 0, 0], out[0, 1, 0]) == (1, 0)


def test_exponentials_of_what_is_too_low_or_too_high():
    def kernel(x, out):
        store(out, 0, exp(load(x, 0)))

    x, out = numbers(1), numbers(1)
    x[0, :4] = -1e30, -88, 89, 1e30
    compiled(kernel)(x, out)
    np.testing.assert_allclose(out[0, :4], np.exp([-87.0, -87, 88, 88]), rtol=2e-7)
