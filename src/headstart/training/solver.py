"""Solves linear heads: logistic regression to convergence, for a path of penalties.

For features centred and scaled to Z (n, d), weights W (k, d) and bias b (k), each penalty l2
minimises

    mean loss(Z W' + b)  +  l2 / 2 * |W|^2

The loss is `targets.py`'s: multinomial with one label an image, and one binary logistic regression
a class, all solved together, where an image may have several.

A feature's scale is the root of its variance plus the square of the mean deviation of all features.
With its own deviation alone, a feature that is zero for nearly all images would become very large:
its weight would have the same penalty as others, and an image with this feature would have a logit
in the hundreds. With the added constant, features with a large variance are nearly standardised,
and the weights of nearly dead features are penalised like those of raw features (Tusher, Tibshirani
& Chu 2001 add such a constant to the deviation of each gene).

The Hessian is bounded by (Z'Z / n) / 2 + l2 in every class (Boehning 1992, "Multinomial logistic
regression algorithm"). In the eigenbasis of Z'Z / n, scaled by the root of that bound, the problem
is therefore well conditioned for any features, and L-BFGS needs tens of passes instead of
thousands. One eigendecomposition serves every penalty. The path goes from the strongest penalty to
the weakest. Each starts on the line through the two solutions before, with their curvature. The
path ends when the validation loss rises. Penalties of a fine grid start between their neighbours.
The best penalty is then solved to more digits.

Where each class is by itself, each has a memory and an end of its own (`separable.py`).

The features are never copied. Standardisation and basis are folded into the weights of each pass,
which reads blocks of rows in order. So features may be in a memory map larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from headstart.training.eigenbasis import eigenbasis
from headstart.training.lbfgs import LbfgsMemory
from headstart.training.separable import Curvatures, Each, descend
from headstart.training.tables import Joined as Joined
from headstart.training.tables import Table as Table
from headstart.training.targets import MANY, targets_of

L2_PATH = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -5.25, -0.5))
# Validation loss is nearly convex along the path: after three worse values in a row it only rises.
PATIENCE = 3
# Largest entry of the gradient in preconditioned coordinates, where curvature is at most one.
# Penalties are compared at a coarser tolerance than the final one. For 45,000 images of CIFAR-10
# validation losses were within 0.0024 of the exact ones near the best penalty, and within 0.10 at
# the weak end.
TOLERANCE, PATH_TOLERANCE = 1e-4, 8e-4
MAX_PASSES = 200
# The most columns of weights in a pass that evaluates several penalties. Such a pass takes half as
# long again as one with a single penalty.
COLUMNS = 32
COARSE = 0.5  # decades between the penalties of a fine grid that are solved first


@dataclass(frozen=True)
class PenaltyScore:
    """The scores of one penalty on training and validation images. iterations: number of passes."""

    l2: float
    iterations: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    criterion: float  # the capped, weighted validation loss, by which penalties are chosen


@dataclass(frozen=True)
class Solution(PenaltyScore):
    """One penalty's optimum. weight: float32 (k, d), bias: float32 (k,), for raw features."""

    weight: torch.Tensor
    bias: torch.Tensor
    cut_off: bool  # whether it stopped after MAX_PASSES, before the optimum
    chosen: bool = False  # whether validation chose it; it is then solved to more digits


def solve_path(
    train: Table | Joined,
    val: Table,
    num_classes: int,
    *,
    l2_path: Sequence[float] = L2_PATH,
    class_weights: torch.Tensor | None = None,
    on_solution: Callable[[Solution], None] = lambda solution: None,
    refine: bool = True,
) -> list[Solution]:
    """Solutions along the path, strongest penalty first; the best one on validation is `chosen`.

    A path as coarse as L2_PATH is solved in its order, a finer one from coarse to fine.

    class_weights: float32 (k,), weights of the classes in the training objective and in the choice.
    Losses in the solutions are plain, without weights and penalty. The choice caps the loss of an
    image (`targets.LOSS_CAP`). on_solution: called with each solution, and again with the
    chosen one after it is refined. refine: solve the chosen one to more digits.
    """
    path = _Path(_Problem(train, num_classes, class_weights), val, class_weights)
    penalties = sorted(l2_path, reverse=True)
    tolerance = TOLERANCE if len(penalties) == 1 else PATH_TOLERANCE
    solutions: dict[float, Solution] = {}
    for level, numbers in enumerate(_coarse_to_fine(penalties)):
        worse, best, weakest = 0, np.inf, min(solutions, default=-np.inf)
        together = min(max(COLUMNS // num_classes, 1), len(numbers)) if level else 1
        for first in range(0, len(numbers), together):
            l2s = [penalties[number] for number in numbers[first : first + together]]
            if level and l2s[-1] < weakest:
                break  # beyond the penalty at which the coarse path ended
            starts = path.problem.evaluate(l2s, [path.predict(l2) for l2 in l2s])
            for l2, start in zip(l2s, starts, strict=True):
                solutions[l2] = path.solve(l2, start, tolerance)
                on_solution(solutions[l2])
                worse = worse + 1 if solutions[l2].criterion > best else 0
                best = min(best, solutions[l2].criterion)
            if not level and worse == PATIENCE:
                break
    # Chosen before refining, so that all solutions are compared at the same tolerance.
    chosen = min(solutions.values(), key=lambda solution: solution.criterion)
    refine = refine and tolerance > TOLERANCE
    if refine:
        fine = path.solve(chosen.l2, path.points[chosen.l2], TOLERANCE)
        chosen = replace(fine, iterations=chosen.iterations + fine.iterations)
    solutions[chosen.l2] = replace(chosen, chosen=True)
    if refine:
        on_solution(solutions[chosen.l2])
    return [solutions[l2] for l2 in penalties if l2 in solutions]


def _coarse_to_fine(penalties: Sequence[float]) -> list[list[int]]:
    """Numbers of the penalties by level: first COARSE steps, then always those half way between.

    Between two known solutions a penalty takes one or two passes; beyond them it takes more.
    """
    positive = [l2 for l2 in penalties if l2 > 0]
    steps = len(positive) - 1
    step = np.log10(positive[0] / positive[-1]) / steps if steps > 0 else np.inf
    stride = 1
    while 2 * stride * step <= COARSE:
        stride *= 2
    count = len(penalties)
    coarse = sorted({*range(0, count, stride), count - 1})
    levels, known = [coarse], set(coarse)
    while stride > 1:
        stride //= 2
        levels.append([number for number in range(0, count, stride) if number not in known])
        known.update(levels[-1])
    return levels


class _Path:
    """The optima of the penalties solved so far, and the start of the next one."""

    def __init__(self, problem: _Problem, val: Table, class_weights: torch.Tensor | None) -> None:
        self.problem = problem
        self.points: dict[float, _Point] = {}
        self._val, self._class_weights = val, class_weights

    def solve(self, l2: float, start: _Point, tolerance: float) -> Solution:
        """The optimum for one penalty, with its scores on validation."""
        point, passes = self.problem.solve(l2, start, tolerance)
        self.points[l2] = point
        W, b = self.problem.weights(point.V)
        loss, accuracy, criterion = _evaluate(self._val, W, b, self._class_weights)
        return Solution(
            l2=l2,
            iterations=passes,
            train_loss=point.loss,
            train_accuracy=point.accuracy,
            val_loss=loss,
            val_accuracy=accuracy,
            weight=W,
            bias=b,
            criterion=criterion,
            cut_off=passes >= MAX_PASSES,
        )

    def predict(self, l2: float) -> torch.Tensor:
        """A guess of an optimum: on the line through its two neighbours, or the last two, over
        log l2.

        Curves of higher degree were tried: on a fine grid they amplify the errors of the solutions
        and take more passes.
        """
        points = self.points
        stronger = sorted(other for other in points if other > l2)
        weaker = sorted((other for other in points if other < l2), reverse=True)
        if not stronger:
            return self.problem.origin
        last, *others = stronger
        before = (weaker or others or [last])[0]
        if l2 <= 0 or before <= 0 or before == last:
            return points[last].V
        ahead = min(np.log(l2 / last) / np.log(last / before), 2.0)  # a line is good only so far
        return points[last].V + float(ahead) * (points[last].V - points[before].V)


@dataclass(frozen=True)
class _Point:
    """Weights V (k, r + 1) and their objective. loss, accuracy: without weights and penalty."""

    V: torch.Tensor
    objective: float
    gradient: torch.Tensor
    loss: float
    accuracy: float
    each: Each | None = None  # of several labels: the point of each class


class _Problem:
    """The objective for one table, in the eigenbasis of its standardised features.

    Weights have the layout (k, d). The two products of a pass then read the features row by row,
    which is three to eight times as fast on a CPU as the transposed layout.
    """

    def __init__(
        self, table: Table | Joined, num_classes: int, class_weights: torch.Tensor | None
    ) -> None:
        self._table, self._k = table, num_classes
        self._class_weights = class_weights
        labels = table.labels
        self._many = targets_of(labels) is MANY
        self._n = len(labels)
        total = self._n if class_weights is None else float(class_weights[labels].sum())
        self._unit_share = 1 / total
        self._mean, self._scale, self._values, self._basis = eigenbasis(table.blocks)
        self._memory = LbfgsMemory(self.origin)
        self._curvatures = Curvatures()

    @property
    def origin(self) -> torch.Tensor:
        return self._basis.new_zeros(self._k, self._basis.shape[1] + 1)

    def weights(self, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (k, d) and bias (k,) for the raw features."""
        W = V[:, :-1] @ self._basis.T / self._scale
        return W, V[:, -1] - W @ self._mean

    def solve(self, l2: float, point: _Point, tolerance: float) -> tuple[_Point, int]:
        """The optimum for one penalty from a start, and the number of passes over the features, the
        one that evaluated the start included.

        L-BFGS is written out here, because its memory is kept from penalty to penalty: the
        curvature of the data is the same for all of them, and that of the penalty is known.
        """
        if self._many:
            return self._solve_each(l2, point, tolerance)
        penalty, passes = self._penalty(l2), 1
        # The bias is the weight of a column of ones: its eigenvalue is one.
        bound = penalty + torch.cat([self._values, self._values.new_ones(1)]) / 2
        while passes < MAX_PASSES and (point.gradient.square() / bound).max() > tolerance**2:
            step = -self._memory.inverse_hessian(point.gradient, penalty, bound)
            slope = float((step * point.gradient).sum())
            noise = 1e-6 * abs(point.objective)  # float32
            for length in (1.0, 0.5, 0.1, 0.01):
                (tried,), passes = self.evaluate([l2], [point.V + length * step]), passes + 1
                if tried.objective <= point.objective + 1e-4 * length * slope + noise:
                    break
            else:
                if not len(self._memory):
                    break  # not even the step of the bound descends: the rest is rounding
                self._memory.clear()
                continue
            s = tried.V - point.V
            self._memory.add(s, tried.gradient - point.gradient - penalty * s)
            point = tried
        return point, passes

    def _penalty(self, l2: float) -> torch.Tensor:
        """The penalty of each column of V, (r + 1,); 0 for the last one, the bias."""
        penalty = torch.full_like(self.origin[0], l2)
        penalty[-1] = 0
        return penalty

    def evaluate(self, l2s: Sequence[float], candidates: Sequence[torch.Tensor]) -> list[_Point]:
        """The objectives of some penalties at weights V (k, r + 1) each, in one pass."""
        if self._many:
            every = torch.arange(self._k, device=self._basis.device)
            return [
                self._joined(self._evaluate_each(l2, V, every))
                for l2, V in zip(l2s, candidates, strict=True)
            ]
        k, many = self._k, len(candidates)
        parts = [self.weights(V) for V in candidates]
        W, b = torch.cat([W for W, _ in parts]), torch.cat([b for _, b in parts])
        # A multiple of sixteen columns: sgemm was a third faster than with CIFAR-10's ten. The
        # added columns are classes of the last candidate with probability 0.
        added = -len(b) % 16
        W, b = F.pad(W, (0, 0, 0, added)), F.pad(b, (0, added), value=-torch.inf)
        own = [slice(k * j, k * (j + 1) if j + 1 < many else None) for j in range(many)]
        raw, moved = W.new_zeros(W.shape[1], W.shape[0]), torch.zeros_like(b)
        sums = torch.zeros(many, 3, dtype=torch.float64)  # loss, weighted loss, hits
        for x, y in self._table.blocks():
            rows = torch.arange(len(x), device=x.device)
            share = torch.full_like(x[:, 0], self._unit_share)
            if self._class_weights is not None:
                share *= self._class_weights[y]
            residual = torch.addmm(b, x, W.T)
            for columns, total in zip(own, sums, strict=True):
                log_p = F.log_softmax(residual[:, columns], dim=1)
                each = -log_p[rows, y]
                right = log_p.argmax(dim=1) == y
                for at, part in enumerate((each, each * share, right)):
                    total[at] += part.sum(dtype=torch.float64).cpu()
                log_p.exp_()[rows, y] -= 1
                torch.mul(log_p, share[:, None], out=residual[:, columns])
            raw.addmm_(x.T, residual)
            moved += residual.sum(dim=0)
        standardised = (raw.T - moved[:, None] * self._mean) / self._scale
        gradients = torch.cat([standardised @ self._basis, moved[:, None]], dim=1)
        points = []
        for j, (l2, V) in enumerate(zip(l2s, candidates, strict=True)):
            loss, weighted, hits = sums[j].tolist()
            pull = self._penalty(l2) * V
            objective = weighted + float((pull * V).sum()) / 2
            gradient = gradients[k * j : k * (j + 1)] + pull
            points.append(_Point(V, objective, gradient, loss / self._n, hits / self._n))
        return points

    def _solve_each(self, l2: float, point: _Point, tolerance: float) -> tuple[_Point, int]:
        """`solve` where each class is a problem of its own."""
        assert point.each is not None
        values = torch.cat([self._values, self._values.new_ones(1)])
        found, passes = descend(
            lambda V, rows: self._evaluate_each(l2, V, rows),
            point.each,
            self._penalty(l2),
            values,
            self._curvatures,
            tolerance=tolerance,
            most=MAX_PASSES - 1,
        )
        return self._joined(found), passes + 1

    def _evaluate_each(self, l2: float, V: torch.Tensor, rows: torch.Tensor) -> Each:
        """The points of the classes `rows` (m,) at weights V (m, r + 1), in one pass."""
        W, b = self.weights(V)
        raw, sums = W.new_zeros(W.shape[1], len(W)), torch.zeros(4, len(W), dtype=torch.float64)
        whole = len(rows) == self._k
        for x, y in self._table.blocks():
            held = (y if whole else y[:, rows]).to(x.dtype)
            logits = torch.addmm(b, x, W.T)
            loss = F.binary_cross_entropy_with_logits(logits, held, reduction="none")
            right = (logits > 0) == (held > 0)
            p = logits.sigmoid_()
            bend = (p * (1 - p)).sum(dim=0)
            residual = p.sub_(held)
            parts = (loss.sum(dim=0), right.sum(dim=0), bend, residual.sum(dim=0))
            sums += torch.stack([part.double() for part in parts]).cpu()
            raw.addmm_(x.T, residual)
        loss, right, bend, moved = (sums / self._n).to(V.device, V.dtype)
        standardised = (raw.T / self._n - moved[:, None] * self._mean) / self._scale
        pull = self._penalty(l2) * V
        gradient = torch.cat([standardised @ self._basis, moved[:, None]], dim=1) + pull
        objective = loss + (pull * V).sum(dim=1) / 2
        return Each(V, objective, gradient, loss, right, bend)

    def _joined(self, each: Each) -> _Point:
        """The points of all classes as one: losses are summed, answers averaged."""
        objective, loss = float(each.objective.double().sum()), float(each.loss.double().sum())
        right = float(each.right.double().mean())
        return _Point(each.V, objective, each.gradient, loss, right, each)


def _evaluate(
    table: Table, W: torch.Tensor, b: torch.Tensor, class_weights: torch.Tensor | None
) -> tuple[float, float, float]:
    """Mean loss, share of right answers, and the criterion by which penalties are chosen."""
    parts = [(torch.addmm(b, x, W.T), y) for x, y in table.blocks()]
    logits, y = (torch.cat(both) for both in zip(*parts, strict=True))
    targets = targets_of(y)
    loss, accuracy = targets.losses(logits, y).mean(), targets.right(logits, y).float().mean()
    return float(loss), float(accuracy), criterion(targets.capped(logits, y), y, class_weights)


def criterion(
    capped: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None
) -> float:
    """The mean of capped losses (n,), weighted by class. Lower is better."""
    if class_weights is None:
        return float(capped.mean())
    weights = class_weights[labels]
    return float((capped * weights).sum() / weights.sum())
