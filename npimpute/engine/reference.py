"""The Li-Stephens model written down plainly: what the kernels are tested against."""

from __future__ import annotations

import numpy as np


def forward_backward(
    codes: np.ndarray,
    observed: np.ndarray,
    switch: np.ndarray,
    err: float,
    drift: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """(t, k) float64: posterior probability that one target haplotype copies each reference haplotype.

    codes: (t, k) allele codes of the panel; observed: (t,) codes of the target, -1 missing; switch: (t,)
    probability of drawing a haplotype anew before each site (the first is not used). drift: (t-1, k, k), of going on
    after each site from one haplotype (row) to another where none is drawn anew; None for never. weight: (k,)
    probability of each haplotype when it is drawn; None: 1 / k.
    Source: Li & Stephens 2003, Genetics 165:2213, appendix A; Rabiner 1989, Proc. IEEE 77:257.
    """
    t, k = codes.shape
    drift = np.broadcast_to(np.eye(k), (t - 1, k, k)) if drift is None else drift
    weight = np.full(k, 1 / k) if weight is None else weight
    emission = np.where(codes == observed[:, None], 1 - err, err)
    emission[observed < 0] = 1.0
    forward, backward = np.empty((t, k)), np.empty((t, k))
    for i in range(t):
        prior = weight if i == 0 else (1 - switch[i]) * drift[i - 1].T @ forward[i - 1] + switch[i] * weight
        forward[i] = prior * emission[i]
        forward[i] /= forward[i].sum()
    backward[t - 1] = 1.0
    for i in range(t - 1, 0, -1):
        future = backward[i] * emission[i]
        backward[i - 1] = (1 - switch[i]) * drift[i - 1] @ future + switch[i] * (weight @ future)
        backward[i - 1] /= backward[i - 1].sum()
    posterior = forward * backward
    return posterior / posterior.sum(axis=1, keepdims=True)


def leave_one_out(codes: np.ndarray, observed: np.ndarray, switch: np.ndarray, err: float) -> np.ndarray:
    """(t, codes) float64: probability of each allele at each typed site when that site is hidden."""
    n_codes = int(codes.max()) + 1
    out = np.empty((len(codes), n_codes))
    for i in range(len(codes)):
        hidden = observed.copy()
        hidden[i] = -1
        copied = forward_backward(codes, hidden, switch, err)[i]
        out[i] = np.bincount(codes[i], weights=copied, minlength=n_codes)
    return out


def dosages(posterior: np.ndarray, alt: np.ndarray, before: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """(u,) float64: ALT probability at untyped rows.

    posterior: (t, k) from ``forward_backward``. alt: (u, k) bool. before: (u,) the typed site before each row, -1
    for none, and fraction: (u,) how far towards the next one it lies; outside the typed sites the nearest holds.
    """
    left = posterior[np.maximum(before, 0)]
    right = posterior[np.minimum(before + 1, len(posterior) - 1)]
    copied = (1 - fraction[:, None]) * left + fraction[:, None] * right
    return (copied * alt).sum(axis=1)
