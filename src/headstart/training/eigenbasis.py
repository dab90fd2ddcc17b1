"""The eigenbasis of standardised features, in which a head is solved: see solver.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from scipy import linalg


def eigenbasis(
    blocks: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and scale (d,) of the features, and eigenvalues (r,) and eigenvectors (d, r) of Z'Z / n
    for the centred and scaled ones, Z (n, d).

    blocks: begins a pass over the rows, features (m, d) and labels (m,) at a time.

    With fewer rows than columns, only the rows' own space: the penalty keeps the optimum inside
    it, and the eigenproblem is (n, n), of Z Z' / n.
    """
    n, total = 0, torch.zeros(0)
    for x, _ in blocks():
        # Of a block, in float32: thirteen times as fast.
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
    """What each feature is divided by, (d,): the head of solver.py gives the reason.

    The mean of the deviations, not their median, since more than half of a sparse network's
    features can be dead.
    """
    variance = variance.clamp_min(0)
    typical = variance.sqrt().mean()
    if typical <= 0:
        return torch.ones_like(variance)
    return (variance + typical.square()).sqrt()


def _eigenvectors(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (r,) and eigenvectors (m, r) of float64 (m, m), of which the upper triangle is
    read, without the directions in which nothing varies: no penalty means no curvature there, and
    0/0."""
    try:
        values, vectors = torch.linalg.eigh(gram, UPLO="U")
    except RuntimeError:
        # LinAlgError among them: divide and conquer can fail on many equal eigenvalues, QR
        # iteration does not.
        solution = linalg.eigh(gram.cpu().numpy(), lower=False, driver="ev")
        values, vectors = (torch.from_numpy(part).to(gram.device) for part in solution)
    kept = values > 1e-9 * values[-1].clamp_min(1e-300)
    return values[kept], vectors[:, kept]
