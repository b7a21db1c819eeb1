"""How the kernels of copying models are compiled: without the GIL, and 1 / 0 is no error."""

from __future__ import annotations

from typing import Any

import numba


def _options(fastmath: set[str]) -> dict[str, Any]:
    return {"nogil": True, "error_model": "numpy", "fastmath": fastmath}


# Sums may be taken in any order, but always in the same one: no loop that sums may also store, or whether its arrays
# lie close together in memory would decide which version of the loop runs.
_ANY, _IN = _options({"reassoc", "contract", "nsz", "arcp"}), _options({"contract", "nsz"})

# Kernels are cached on disk, and take plain tuples: a cache that names classes of an older version could not even be
# opened. What they call is not cached; what has one caller is inline: compiled with it, not before it as well, which
# takes half the time.
any_order, any_order_inline = numba.njit(**_ANY), numba.njit(**_ANY, inline="always")
any_order_kernel = numba.njit(**_ANY, cache=True)
# Sums in the order they are written in, as vectors of targets need (``lanes``).
in_order, in_order_inline = numba.njit(**_IN), numba.njit(**_IN, inline="always")
in_order_kernel = numba.njit(**_IN, cache=True)
