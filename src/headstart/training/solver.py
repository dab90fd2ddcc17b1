"""Linear heads, solved: multinomial logistic regression to convergence, for a path of penalties.

For features standardised to Z (n, d), weights W (d, k) and bias b, each penalty l2 minimises

    mean cross-entropy(Z W + b)  +  l2 / 2 * |W|^2

The Hessian is bounded by (Z'Z / n) / 2 + l2 in every class (Boehning 1992, "Multinomial logistic
regression algorithm"), so in the eigenbasis of Z'Z / n, scaled by the root of that bound, the
problem is well conditioned whatever the features are, and L-BFGS needs tens of passes instead of
thousands. One eigendecomposition serves every penalty. The path runs from the strongest penalty
to the weakest, each starting at the solution before, and ends once validation has turned: the
whole grid costs about what one cold fit at the end of it would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize

L2_PATH = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -5.25, -0.5))
# Validation loss is nearly convex along the path; three worse values in a row are its far side.
PATIENCE = 3


@dataclass(frozen=True)
class Solution:
    """One penalty's optimum. weight: float32 (k, d), bias: float32 (k,), for raw features."""

    l2: float
    iterations: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    weight: torch.Tensor
    bias: torch.Tensor


def solve_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    val_features: torch.Tensor,
    val_labels: torch.Tensor,
    num_classes: int,
    *,
    l2_path: Sequence[float] = L2_PATH,
    on_solution: Callable[[Solution], None] = lambda solution: None,
) -> list[Solution]:
    """Solutions along the path, strongest penalty first; the caller picks by validation.

    features: float32 (n, d), labels: int64 (n,), and the same for validation. Losses are
    cross-entropy alone, without the penalty.
    """
    mean = features.mean(dim=0)
    # A feature that never varies says nothing: a unit scale keeps it at zero.
    scale = features.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
    Z = (features - mean) / scale
    Z_val = (val_features - mean) / scale
    problem = _Problem(Z, labels, num_classes)
    W, b = Z.new_zeros(Z.shape[1], num_classes), Z.new_zeros(num_classes)
    solutions: list[Solution] = []
    worse = 0
    for l2 in sorted(l2_path, reverse=True):
        W, b, iterations = problem.solve(l2, W, b)
        train_loss, train_accuracy = _evaluate(Z, labels, W, b)
        val_loss, val_accuracy = _evaluate(Z_val, val_labels, W, b)
        solution = Solution(
            l2,
            iterations,
            train_loss,
            train_accuracy,
            val_loss,
            val_accuracy,
            weight=(W / scale[:, None]).T.contiguous(),
            bias=b - (mean / scale) @ W,
        )
        on_solution(solution)
        best = min((s.val_loss for s in solutions), default=np.inf)
        worse = worse + 1 if val_loss > best else 0
        solutions.append(solution)
        if worse == PATIENCE:
            break
    return solutions


class _Problem:
    """The objective for one set of standardised features, in preconditioned coordinates."""

    def __init__(self, Z: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
        self._Z, self._labels, self._k = Z, labels, num_classes
        gram = (Z.T @ Z).double() / len(Z)
        values, vectors = torch.linalg.eigh(gram)
        self._values = values.clamp_min(0).float()
        self._basis = vectors.float()

    def solve(
        self, l2: float, W: torch.Tensor, b: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        root = (self._values / 2 + l2).sqrt()[:, None]
        shape = W.shape
        split = W.numel()
        # The bias meets a column of ones: its eigenvalue is one and it has no penalty.
        bias_root = 0.5**0.5

        def unpack(v: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            t = torch.from_numpy(v).float().to(self._Z.device)
            return self._basis @ (t[:split].view(shape) / root), t[split:] / bias_root

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            W, b = unpack(v)
            loss, gradient_W, gradient_b = self._loss(W, b, l2)
            gradient = torch.cat(
                [((self._basis.T @ gradient_W) / root).flatten(), gradient_b / bias_root]
            )
            return loss, gradient.cpu().double().numpy()

        start = torch.cat([((self._basis.T @ W) * root).flatten(), b * bias_root])
        result = optimize.minimize(
            objective,
            start.cpu().double().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "gtol": 1e-5, "ftol": 1e-8, "maxcor": 20},
        )
        W, b = unpack(result.x)
        return W, b, int(result.nit)

    def _loss(
        self, W: torch.Tensor, b: torch.Tensor, l2: float
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Objective and its gradients; the residual (n, k) is made in place of the logits."""
        n = len(self._Z)
        log_p = F.log_softmax(torch.addmm(b, self._Z, W), dim=1)
        loss = F.nll_loss(log_p, self._labels) + l2 / 2 * W.square().sum()
        residual = log_p.exp_()
        residual[torch.arange(n, device=W.device), self._labels] -= 1
        residual /= n
        return float(loss), self._Z.T @ residual + l2 * W, residual.sum(dim=0)


def _evaluate(
    Z: torch.Tensor, labels: torch.Tensor, W: torch.Tensor, b: torch.Tensor
) -> tuple[float, float]:
    logits = torch.addmm(b, Z, W)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return float(F.cross_entropy(logits, labels)), float(accuracy)
