"""Sixteen targets side by side: a vector of float32 for compiled kernels, which compilers do not make by themselves of
loops over lanes, as two arrays may overlap.

Kernels add, subtract, multiply and divide vectors with operators, lane by lane, so what a lane gets depends on no
other. An array of shape (..., LANES), C-contiguous, is one of vectors; ``load`` and ``store`` know vector i of it.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16

_INT32, _VECTOR = ir.IntType(32), ir.VectorType(ir.FloatType(), LANES)


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
        nowhere = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
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


def _define(operation, instruction):
    @type_callable(operation)
    def typed(context):
        return lambda x, y: _lanes if x is _lanes and y is _lanes else None

    @lower_builtin(operation, _lanes, _lanes)
    def lowered(context, builder, signature, args):
        return getattr(builder, instruction)(*args, flags=("contract", "nsz"))


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
