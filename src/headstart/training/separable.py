"""L-BFGS for many independent problems at once: one logistic regression a class, one pass for all.

The classes share their features and nothing else. So each has its own memory of curvature, its own
step and its own end, and a pass over the features serves every class that is not at its optimum
yet. One memory for all took several times as many passes: one step had to suit every class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch

MEMORY = 10  # steps of each class
SHRINK, SHORTEST = 0.3, 1e-3  # of a step that does not descend
LEAST_CURVATURE = 1e-3  # of a class, as a share of that of the features


@dataclass(frozen=True)
class Each:
    """A point of every problem. V: weights (k, r + 1) in the eigenbasis; gradient like it.
    objective, loss, right, curvature: (k,), the objective, its part without penalty, the share of
    right answers, and the mean second derivative of the loss by the logit."""

    V: torch.Tensor
    objective: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    right: torch.Tensor
    curvature: torch.Tensor

    def pick(self, rows: torch.Tensor) -> Each:
        return Each(*(getattr(self, f.name)[rows] for f in fields(self)))

    def put(self, rows: torch.Tensor, other: Each) -> None:
        """Take some problems' points from another."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(other, each.name)


@dataclass
class Curvatures:
    """The last steps of every problem, (k, r + 1) each, and the changes of the gradient over them,
    without the penalty's part; zeros where a problem made no step. They serve every penalty."""

    pairs: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def add(self, steps: torch.Tensor, changes: torch.Tensor) -> None:
        self.pairs = [*self.pairs[-(MEMORY - 1) :], (steps, changes)]

    def directions(
        self,
        rows: torch.Tensor,
        gradient: torch.Tensor,
        penalty: torch.Tensor,
        bound: torch.Tensor,
    ) -> torch.Tensor:
        """Minus the inverse Hessian's product with the gradient (m, r + 1), of the problems `rows`.

        bound: (m, r + 1), the Hessian's diagonal before any step. The two loops of L-BFGS as
        products of matrices, one for each problem (as in `lbfgs.py`): hundreds of small operations
        a pass would take longer than the pass.
        """
        if not self.pairs:
            return -gradient / bound
        S = torch.stack([steps[rows] for steps, _ in self.pairs], dim=1)  # (m, memory, r + 1)
        Y = torch.stack([changes[rows] for _, changes in self.pairs], dim=1) + penalty * S
        known = (S * Y).sum(dim=2) > 0  # a problem may have rested, or bent the wrong way
        S, Y = S * known[:, :, None], Y * known[:, :, None]
        scaled, g = Y / bound[:, None, :], gradient[:, :, None]
        products = (S @ Y.mT).double()
        curvature = products.diagonal(dim1=1, dim2=2)
        upper = products.triu() + torch.diag_embed((~known).double())
        square = (Y @ scaled.mT).double()
        # That of the last known step; 1 where there is none.
        place = torch.arange(1, known.shape[1] + 1, device=known.device) * known
        last = place.argmax(dim=1, keepdim=True)
        ratio = curvature / square.diagonal(dim1=1, dim2=2).clamp_min(1e-300)
        gamma = torch.where(known.any(dim=1, keepdim=True), ratio.gather(1, last), 1.0)[:, :, None]
        inner = gamma * square + torch.diag_embed(curvature)
        along = torch.linalg.solve_triangular(upper, (S @ g).double(), upper=True)
        rest = inner @ along - gamma * (scaled @ g).double()
        across = torch.linalg.solve_triangular(upper.mT, rest, upper=False)
        first = gamma[:, :, 0].to(g.dtype)
        direction: torch.Tensor = first * gradient / bound + (across.mT.to(g.dtype) @ S)[:, 0]
        direction -= first * (along.mT.to(g.dtype) @ scaled)[:, 0]
        return -direction


def descend(
    evaluate: Callable[[torch.Tensor, torch.Tensor], Each],
    start: Each,
    penalty: torch.Tensor,
    values: torch.Tensor,
    curvatures: Curvatures,
    *,
    tolerance: float,
    most: int,
) -> tuple[Each, int]:
    """The optima of all problems, and the number of passes.

    evaluate: takes weights (m, r + 1) and the numbers of their problems (m,), and gives their
    points in one pass. penalty, values: (r + 1,), the penalty and the features' eigenvalue of each
    column. A problem has ended where no entry of its gradient, over the root of its curvature, is
    above `tolerance`, or where no step descends: the rest is rounding.
    """
    point = start.pick(torch.arange(len(start.V), device=start.V.device))
    bound = penalty + values * point.curvature.clamp_min(LEAST_CURVATURE)[:, None]
    steps = torch.zeros_like(point.V)
    length = torch.ones_like(point.objective)
    retry = torch.zeros_like(point.objective, dtype=torch.bool)
    stuck = retry.clone()
    passes = 0
    while passes < most:
        open_ = ((point.gradient.square() / bound).amax(dim=1) > tolerance**2) & ~stuck
        rows = open_.nonzero()[:, 0]
        if not len(rows):
            break
        fresh = rows[~retry[rows]]
        if len(fresh):
            given = point.gradient[fresh]
            steps[fresh] = curvatures.directions(fresh, given, penalty, bound[fresh])
            rising = fresh[(steps[fresh] * given).sum(dim=1) >= 0]
            steps[rising] = -point.gradient[rising] / bound[rising]
            length[fresh] = 1.0
        moved = length[rows, None] * steps[rows]
        tried, passes = evaluate(point.V[rows] + moved, rows), passes + 1
        slope = (moved * point.gradient[rows]).sum(dim=1)
        noise = 1e-6 * point.objective[rows].abs()  # float32
        good = tried.objective <= point.objective[rows] + 1e-4 * slope + noise
        taken, left = rows[good], rows[~good]
        change = torch.zeros_like(point.V)
        change[taken] = (tried.gradient - point.gradient[rows])[good] - penalty * moved[good]
        step = torch.zeros_like(point.V)
        step[taken] = moved[good]
        curvatures.add(step, change)
        point.put(taken, tried.pick(good))
        retry[:] = False
        retry[left] = True
        length[left] *= SHRINK
        stuck[left[length[left] < SHORTEST]] = True
    return point, passes
