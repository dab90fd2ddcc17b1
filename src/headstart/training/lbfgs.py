"""The memory of L-BFGS, kept from penalty to penalty: the steps and the changes of the gradient."""

from __future__ import annotations

import torch

MEMORY = 50  # steps


class LbfgsMemory:
    """The last MEMORY steps and the changes of the gradient over them, without the penalty's part.

    The two loops of L-BFGS are matrix products here (Byrd, Nocedal & Schnabel 1994, theorem 2.2).
    Each penalty changes every y, so hundreds of small operations per step would take a sixth of a
    pass.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._steps = self._changes = like.new_zeros(0, like.numel())

    def __len__(self) -> int:
        return len(self._steps)

    def clear(self) -> None:
        self._steps, self._changes = self._steps[:0], self._changes[:0]

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Add a step with positive curvature; drop the oldest."""
        if (step * change).sum() <= 0:
            return
        kept = slice(-(MEMORY - 1), None)
        self._steps = torch.cat([self._steps[kept], step.view(1, -1)])
        self._changes = torch.cat([self._changes[kept], change.view(1, -1)])

    def inverse_hessian(
        self, gradient: torch.Tensor, penalty: torch.Tensor, bound: torch.Tensor
    ) -> torch.Tensor:
        """The product of the inverse Hessian with `gradient` (k, r + 1).

        Before the first step `bound` is used as the Hessian. penalty, bound: (r + 1,), one for each
        column.
        """
        if not len(self):
            return gradient / bound
        S, rows = self._steps, len(gradient)
        Y = self._changes + S * penalty.repeat(rows)
        g, scaled = gradient.reshape(-1), Y / bound.repeat(rows)
        # Small matrices from here on, in float64: steps of neighbouring penalties are nearly
        # parallel.
        products = (S @ Y.T).double()
        curvature, upper = products.diagonal(), products.triu()
        gamma = float(curvature[-1] / (Y[-1] * scaled[-1]).sum())
        inner = gamma * (Y @ scaled.T).double() + curvature.diag()
        along = torch.linalg.solve_triangular(upper, (S @ g).double()[:, None], upper=True)
        rest = inner @ along - gamma * (scaled @ g).double()[:, None]
        across = torch.linalg.solve_triangular(upper.T, rest, upper=False)
        product: torch.Tensor = gamma * (g / bound.repeat(rows)) + across[:, 0].to(g.dtype) @ S
        product -= gamma * (along[:, 0].to(g.dtype) @ scaled)
        return product.view(gradient.shape)
