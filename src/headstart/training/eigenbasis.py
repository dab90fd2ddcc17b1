"""The eigenbasis of scaled features, in which a head is solved: see solver.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from scipy import linalg


def eigenbasis(
    blocks: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and scale (d,) of the features, and eigenvalues (r,) and eigenvectors (d, r) of Z'Z / n.

    Z (n, d) are the centred and scaled features. blocks: begins a pass over the rows, with features
    (m, d) and labels (m,) in each block.

    With fewer rows than columns only the space of the rows is used: the penalty keeps the optimum
    in it. The eigenproblem is then of Z Z' / n, (n, n).
    """
    n, total = 0, torch.zeros(0)
    for x, _ in blocks():
        # The sum of a block is in float32: thirteen times as fast.
        total = x.sum(dim=0).double() + (total if n else 0)
        n, d, dtype = n + len(x), x.shape[1], x.dtype
    mean = (total / n).to(dtype)
    if n < d:
        centred = torch.cat([x for x, _ in blocks()]) - mean
        scale = _scale(centred.double().square().mean(dim=0)).to(dtype)
        Z = (centred / scale).double()
        values, vectors = _eigenvectors(Z @ Z.T / n)
        vectors = Z.T @ vectors / (n * values).sqrt()
    else:
        products = torch.zeros(d, d, dtype=torch.float64, device=total.device)
        quarter = math.ceil(d / 4)
        for x, _ in blocks():
            centred = x - mean
            for first in range(0, d, quarter):  # the upper triangle, in four steps
                columns = slice(first, first + quarter)
                products[columns, first:] += centred[:, columns].T @ centred[:, first:]
        scale = _scale(products.diagonal() / n)
        values, vectors = _eigenvectors(products / (n * scale * scale[:, None]))
        scale = scale.to(dtype)
    return mean, scale, values.clamp_min(0).to(dtype), vectors.to(dtype)


def _scale(variance: torch.Tensor) -> torch.Tensor:
    """The divisor of each feature, (d,); solver.py gives the reason.

    It uses the mean of the deviations, not their median, because more than half of a sparse
    network's features can be dead.
    """
    variance = variance.clamp_min(0)
    typical = variance.sqrt().mean()
    if typical <= 0:
        return torch.ones_like(variance)
    return (variance + typical.square()).sqrt()


def _eigenvectors(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (r,) and eigenvectors (m, r) of float64 (m, m); only the upper triangle is read.

    Directions without variance are left out: without a penalty the curvature there is 0, and the
    step 0/0.
    """
    try:
        values, vectors = torch.linalg.eigh(gram, UPLO="U")
    except RuntimeError:
        # LinAlgError is a RuntimeError. Divide and conquer can fail on many equal eigenvalues; QR
        # iteration does not.
        solution = linalg.eigh(gram.cpu().numpy(), lower=False, driver="ev")
        values, vectors = (torch.from_numpy(part).to(gram.device) for part in solution)
    kept = values > 1e-9 * values[-1].clamp_min(1e-300)
    return values[kept], vectors[:, kept]
