"""Linear heads, solved: multinomial logistic regression to convergence, for a path of penalties.

For features standardised to Z (n, d), weights W (k, d) and bias b (k), each penalty l2 minimises

    mean cross-entropy(Z W' + b)  +  l2 / 2 * |W|^2

The Hessian is bounded by (Z'Z / n) / 2 + l2 in every class (Boehning 1992, "Multinomial logistic
regression algorithm"), so in the eigenbasis of Z'Z / n, scaled by the root of that bound, the
problem is well conditioned whatever the features are, and L-BFGS needs tens of passes instead of
thousands. One eigendecomposition serves every penalty. The path runs from the strongest penalty
to the weakest, each starting where the two solutions before point to, with the curvature that they
have shown, and ends once validation has turned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import linalg

L2_PATH = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -5.25, -0.5))
# Validation loss is nearly convex along the path; three worse values in a row are its far side.
PATIENCE = 3
# Largest entry of the gradient in preconditioned coordinates, where curvature is at most one.
TOLERANCE = 1e-4
MAX_PASSES = 200
MEMORY = 20  # steps that L-BFGS remembers


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
    class_weights: torch.Tensor | None = None,
    on_solution: Callable[[Solution], None] = lambda solution: None,
) -> list[Solution]:
    """Solutions along the path, strongest penalty first; the caller picks by validation.

    features: float32 (n, d), labels: int64 (n,), and the same for validation. class_weights:
    float32 (k,), of each class in the training objective; the mean is then a weighted one. Losses
    in the solutions are plain cross-entropy, without weights and penalty.
    """
    mean = features.mean(dim=0)
    # A feature that never varies says nothing: a unit scale keeps it at zero.
    scale = features.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
    Z = (features - mean) / scale
    Z_val = (val_features - mean) / scale
    problem = _Problem(Z, labels, num_classes, class_weights)
    known: list[tuple[float, torch.Tensor]] = []
    solutions: list[Solution] = []
    worse = 0
    for l2 in sorted(l2_path, reverse=True):
        found, passes = problem.solve(l2, _extrapolate(known, l2, problem.origin))
        known = [*known[-1:], (l2, found.V)]
        W, b = problem.weights(found.V)
        val_loss, val_accuracy = _evaluate(Z_val, val_labels, W, b)
        solution = Solution(
            l2,
            passes,
            found.loss,
            found.accuracy,
            val_loss,
            val_accuracy,
            weight=W / scale,
            bias=b - W @ (mean / scale),
        )
        on_solution(solution)
        best = min((s.val_loss for s in solutions), default=np.inf)
        worse = worse + 1 if val_loss > best else 0
        solutions.append(solution)
        if worse == PATIENCE:
            break
    return solutions


def _extrapolate(
    known: list[tuple[float, torch.Tensor]], l2: float, origin: torch.Tensor
) -> torch.Tensor:
    """Where the next optimum should lie: on the line through the last two, over log l2.

    Curves of higher degree were tried: on a fine grid they amplify what is left of the solutions'
    errors, and cost passes.
    """
    if not known:
        return origin
    (before, V_before), (last, V_last) = known[0], known[-1]
    if l2 <= 0 or before == last:
        return V_last
    ahead = min(np.log(l2 / last) / np.log(last / before), 2.0)  # a line leads no further
    return V_last + float(ahead) * (V_last - V_before)


@dataclass(frozen=True)
class _Point:
    """Weights V (k, r + 1), and the objective there; loss and accuracy are plain ones."""

    V: torch.Tensor
    objective: float
    gradient: torch.Tensor
    loss: float
    accuracy: float


class _Problem:
    """The objective for one set of standardised features, in their eigenbasis.

    Weights are kept as (k, d): the two products of a pass, Z V' and R' Z, then read Z row by row,
    which is three to eight times as fast on CPU as the transposed layout.
    """

    def __init__(
        self,
        Z: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        class_weights: torch.Tensor | None,
    ) -> None:
        self._labels, self._k = labels, num_classes
        # (n, 1): the share of each image in the mean.
        each = Z.new_ones(len(Z)) if class_weights is None else class_weights[labels]
        self._share = (each / each.sum())[:, None]
        self._values, self._basis = _eigenbasis(Z)
        self._Z = Z @ self._basis
        self._pairs: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=MEMORY)

    @property
    def origin(self) -> torch.Tensor:
        return self._Z.new_zeros(self._k, self._Z.shape[1] + 1)

    def weights(self, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (k, d) and bias (k,) for the standardised features."""
        return V[:, :-1] @ self._basis.T, V[:, -1]

    def solve(self, l2: float, V: torch.Tensor) -> tuple[_Point, int]:
        """The optimum for one penalty from a start, and the passes over the features it took.

        L-BFGS (Nocedal & Wright 2006, algorithm 7.5), written out because its memory is kept from
        penalty to penalty: what a step has shown of the data's curvature holds for all of them,
        and the penalty's own is known.
        """
        # The bias meets a column of ones: its eigenvalue is one and it has no penalty.
        bound = torch.cat([self._values / 2 + l2, self._values.new_tensor([0.5])])
        penalty = torch.full_like(bound, l2)
        penalty[-1] = 0
        point, passes = self._evaluate(V, penalty), 1
        while passes < MAX_PASSES and (point.gradient.square() / bound).max() > TOLERANCE**2:
            pairs = [(s, y + penalty * s) for s, y in self._pairs]
            step = -_inverse_hessian(point.gradient, pairs, bound)
            slope = float((step * point.gradient).sum())
            noise = 1e-6 * abs(point.objective)  # float32
            for length in (1.0, 0.5, 0.1, 0.01):
                tried, passes = self._evaluate(point.V + length * step, penalty), passes + 1
                if tried.objective <= point.objective + 1e-4 * length * slope + noise:
                    break
            else:
                if not self._pairs:
                    break  # not even the bound's own step descends: what is left is rounding
                self._pairs.clear()
                continue
            s = tried.V - point.V
            y = tried.gradient - point.gradient - penalty * s
            if (s * y).sum() > 0:
                self._pairs.append((s, y))
            point = tried
        return point, passes

    def _evaluate(self, V: torch.Tensor, penalty: torch.Tensor) -> _Point:
        """One pass. penalty: (r + 1,), of each column of V; the last column is the bias."""
        rows = torch.arange(len(self._Z), device=V.device)
        log_p = F.log_softmax(torch.addmm(V[:, -1], self._Z, V[:, :-1].T), dim=1)
        hits = log_p.argmax(dim=1) == self._labels
        each = -log_p[rows, self._labels]
        objective = (each * self._share[:, 0]).sum() + (penalty * V.square()).sum() / 2
        residual = log_p.exp_()  # in place: the logits of 50,000 images are not small
        residual[rows, self._labels] -= 1
        residual *= self._share
        gradient = torch.cat([residual.T @ self._Z, residual.sum(dim=0)[:, None]], dim=1)
        return _Point(
            V,
            float(objective),
            gradient + penalty * V,
            float(each.mean()),
            float(hits.float().mean()),
        )


def _inverse_hessian(
    gradient: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]], bound: torch.Tensor
) -> torch.Tensor:
    """The product by L-BFGS's two loops, from steps s and changes y of the gradient.

    Where no step has been yet, the Hessian is its bound.
    """
    q, shares = gradient.clone(), []
    for s, y in reversed(pairs):
        share = (s * q).sum() / (s * y).sum()
        q -= share * y
        shares.append(share)
    q /= bound
    if pairs:
        s, y = pairs[-1]
        q *= (s * y).sum() / (y * y / bound).sum()
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - (y * q).sum() / (s * y).sum()) * s
    return q


def _eigenbasis(Z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (r,) and eigenvectors (d, r) of Z'Z / n for Z (n, d).

    With fewer rows than columns, only the rows' own space: the penalty keeps the optimum inside
    it, and the eigenproblem is (n, n), of Z Z' / n.
    """
    n, d = Z.shape
    rows = n < d
    gram = (Z @ Z.T if rows else Z.T @ Z).double() / n
    try:
        values, vectors = torch.linalg.eigh(gram)
    except RuntimeError:
        # LinAlgError among them: divide and conquer can fail on many equal eigenvalues, QR
        # iteration does not.
        found = linalg.eigh(gram.cpu().numpy(), driver="ev")
        values, vectors = (torch.from_numpy(part).to(gram.device) for part in found)
    # Directions in which nothing varies: no penalty means no curvature there, and 0/0.
    kept = values > 1e-9 * values[-1].clamp_min(1e-300)
    values, vectors = values[kept], vectors[:, kept]
    if rows:
        vectors = Z.double().T @ vectors / (n * values).sqrt()
    return values.clamp_min(0).to(Z.dtype), vectors.to(Z.dtype)


def _evaluate(
    Z: torch.Tensor, labels: torch.Tensor, W: torch.Tensor, b: torch.Tensor
) -> tuple[float, float]:
    logits = torch.addmm(b, Z, W.T)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return float(F.cross_entropy(logits, labels)), float(accuracy)
