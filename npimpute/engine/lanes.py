"""Sixteen targets side by side: a vector of float32 for compiled kernels, which compilers do not make by themselves of
loops over lanes, as two arrays may overlap.

Kernels add, subtract, multiply and divide vectors with operators, lane by lane, so what a lane gets depends on no
other. An array of shape (..., LANES), C-contiguous, is one of vectors; ``load`` and ``store`` know vector i of it.

Functions that call ``exp`` or ``log`` must not be compiled with leave to reassociate (fastmath "reassoc"), which
reaches into them.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16

_INT32, _VECTOR = ir.IntType(32), ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(_INT32, LANES)
_FLAGS = ("contract", "nsz")


def vectors(*shape: int) -> np.ndarray:
    """(*shape, LANES) float32, zeros, each vector within one cache line, which twice as many can be read of in a time
    as across two."""
    size = math.prod(shape) * LANES
    room = np.zeros(size + LANES, np.float32)
    first = -room.ctypes.data // room.itemsize % LANES
    return room[first : first + size].reshape(*shape, LANES)


class _Lanes(types.Type):
    def __init__(self):
        super().__init__(name=f"float32 x {LANES}")


_lanes = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


def _address(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    i = context.cast(builder, args[1], signature.args[1], types.intp)
    first = builder.gep(array.data, [builder.mul(i, ir.Constant(i.type, LANES))])
    return builder.bitcast(first, _VECTOR.as_pointer())


@intrinsic
def load(typing, array, i):
    """Vector i of a float32 array."""

    def make(context, builder, signature, args):
        found = builder.load(_address(context, builder, signature, args))
        found.align = 4
        return found

    return _lanes(array, i), make


@intrinsic
def store(typing, array, i, value):
    """Makes ``value`` vector i of a float32 array."""

    def make(context, builder, signature, args):
        builder.store(args[2], _address(context, builder, signature, args)).align = 4
        return context.get_dummy_value()

    return types.void(array, i, _lanes), make


@intrinsic
def spread(typing, number):
    """The vector that has a number in every lane."""

    def make(context, builder, signature, args):
        value = context.cast(builder, args[0], signature.args[0], types.float32)
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INT32, 0))
        nowhere = ir.Constant(_INTEGERS, [0] * LANES)
        return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), nowhere)

    return _lanes(number), make


@intrinsic
def above(typing, x, y):
    """int64 with bit i set where lane i of x is above that of y."""

    def make(context, builder, signature, args):
        bits = builder.bitcast(builder.fcmp_ordered(">", *args), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(_lanes, _lanes), make


@intrinsic
def first_bit(typing, bits):
    """Number of the lowest bit that is set; at least one is."""

    def make(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), True))

    return types.int64(types.int64), make


def _all(number: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [number] * LANES)


def _all_bits(number: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [number] * LANES)


def _polynomial(builder, x, coefficients):
    """Highest power first."""
    value = _all(coefficients[0])
    for coefficient in coefficients[1:]:
        value = builder.fadd(builder.fmul(value, x, flags=_FLAGS), _all(coefficient), flags=_FLAGS)
    return value


def _greater(builder, x, y):
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def greater(typing, x, y):
    """The greater of two."""
    return _lanes(_lanes, _lanes), lambda context, builder, signature, args: _greater(builder, *args)


@intrinsic
def less(typing, x, y):
    """The lesser of two."""

    def make(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return _lanes(_lanes, _lanes), make


# The logarithm of 2 in two parts, the first with few enough bits for whole multiples of it to be exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


@intrinsic
def exp(typing, x):
    """Within 2e-7 of what it is, relatively; of numbers beyond -87 and 88 that of these.

    2^n times a polynomial of what remains (Cephes, expf; Moshier 1992).
    """

    def make(context, builder, signature, args):
        x = _greater(builder, args[0], _all(-87.0))
        x = builder.select(builder.fcmp_ordered("<", x, _all(88.0)), x, _all(88.0))
        # Added to 1.5 * 2^23 it is rounded to a whole number.
        n = builder.fadd(builder.fmul(x, _all(1.4426950408889634)), _all(12582912.0))
        n = builder.fsub(n, _all(12582912.0))
        x = builder.fsub(x, builder.fmul(n, _all(_LN2_HIGH), flags=_FLAGS), flags=_FLAGS)
        x = builder.fsub(x, builder.fmul(n, _all(_LN2_LOW), flags=_FLAGS), flags=_FLAGS)
        terms = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
        y = builder.fmul(builder.fmul(x, x), _polynomial(builder, x, terms), flags=_FLAGS)
        y = builder.fadd(builder.fadd(y, x), _all(1.0))
        power = builder.shl(builder.add(builder.fptosi(n, _INTEGERS), _all_bits(127)), _all_bits(23))
        return builder.fmul(y, builder.bitcast(power, _VECTOR))

    return _lanes(_lanes), make


@intrinsic
def log(typing, x):
    """Natural logarithm of normal numbers above 0, within 2e-7.

    That of the power of 2 and of what it is multiplied with, between .7 and 1.4, less 1 (Cephes, logf; Moshier 1992).
    """

    def make(context, builder, signature, args):
        bits = builder.bitcast(args[0], _INTEGERS)
        n = builder.sitofp(builder.sub(builder.lshr(bits, _all_bits(23)), _all_bits(126)), _VECTOR)
        x = builder.or_(builder.and_(bits, _all_bits(0x7FFFFF)), _all_bits(0x3F000000))
        x = builder.bitcast(x, _VECTOR)
        low = builder.fcmp_ordered("<", x, _all(0.7071067811865476))
        n = builder.select(low, builder.fsub(n, _all(1.0)), n)
        x = builder.fsub(builder.select(low, builder.fadd(x, x), x), _all(1.0))
        square = builder.fmul(x, x)
        terms = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
        terms += (-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
        y = builder.fmul(builder.fmul(x, square), _polynomial(builder, x, terms), flags=_FLAGS)
        y = builder.fadd(y, builder.fmul(n, _all(_LN2_LOW), flags=_FLAGS), flags=_FLAGS)
        y = builder.fsub(y, builder.fmul(square, _all(0.5), flags=_FLAGS), flags=_FLAGS)
        return builder.fadd(builder.fadd(x, y), builder.fmul(n, _all(_LN2_HIGH), flags=_FLAGS), flags=_FLAGS)

    return _lanes(_lanes), make


def _define(operation, instruction):
    @type_callable(operation)
    def typed(context):
        return lambda x, y: _lanes if x is _lanes and y is _lanes else None

    @lower_builtin(operation, _lanes, _lanes)
    def lowered(context, builder, signature, args):
        return getattr(builder, instruction)(*args, flags=_FLAGS)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
