"""Logistic regression of each untyped site on the block's typed sites, fitted on all panel haplotypes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..context.blocks import Block

# Penalty on half the squared weights, beside the summed cross-entropy; the intercept is free.
RIDGE = 1.0
ITERATIONS = 200  # of L-BFGS, at most
TOLERANCE = 1e-5  # of the gradient, a haplotype


class LogisticRegression:
    """See ``blockwise.Predictor``. ridge: L2 penalty. device: where torch fits it."""

    def __init__(self, ridge: float = RIDGE, device: str = "cpu"):
        self._ridge, self._device = ridge, device

    def predict(self, block: Block) -> np.ndarray:
        # float64: the order of sums, and with it the number of threads, must not show.
        features = torch.from_numpy(block.panel[~block.wanted].T.astype(np.float64)).to(self._device)
        labels = torch.from_numpy(block.panel[block.wanted].T.astype(np.float64)).to(self._device)
        mean = features.mean(0)
        weights, intercept = self._fit(features - mean, labels)
        queries = torch.from_numpy(block.queries[:, ~block.wanted].astype(np.float64)).to(self._device)
        queries = torch.where(queries < 0, mean, queries)  # not known: as common as in the panel
        return torch.sigmoid((queries - mean) @ weights + intercept).float().cpu().numpy()

    def _fit(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (features, labels) and intercepts (labels,). features: (k, features), centred. labels: (k, labels).

        The labels' fits are independent; together they are one convex function of one matrix.
        """
        k = len(labels)
        share = labels.mean(0).clamp(0.5 / k, 1 - 0.5 / k)
        weights = torch.zeros(features.shape[1], labels.shape[1]).to(labels).requires_grad_()
        intercept = torch.logit(share).requires_grad_()
        solver = torch.optim.LBFGS(
            [weights, intercept], max_iter=ITERATIONS, tolerance_grad=TOLERANCE, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            fit = F.binary_cross_entropy_with_logits(features @ weights + intercept, labels, reduction="sum")
            total = (fit + self._ridge / 2 * weights.square().sum()) / k
            total.backward()
            return total

        solver.step(loss)
        return weights.detach(), intercept.detach()
