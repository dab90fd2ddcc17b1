"""Transferability: scores frozen features for a task without training. Arrays in, numbers out."""

from __future__ import annotations

import numpy as np

MAX_ITERATIONS, TOLERANCE, FARTHEST = 500, 1e-9, (1e-9, 1e9)


def logme(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """LogME (You et al. 2021): log of the maximum evidence per image, mean over classes, in nats.

    features: (n, d); labels: int64 (n,), or bool (n, classes) of several labels an image. For each
    class's indicator y (n,), the evidence of the linear model y ~ N(F w, 1/beta), w ~ N(0,
    1/alpha), at the alpha and beta that maximise it, found by MacKay's fixed-point equations.
    Higher is better. Values can be compared between backbones on the same images, not between data
    sets. All d directions count, also where d > n.
    """
    F = np.asarray(features, np.float64)
    one = labels.ndim == 1
    Y = (labels[:, None] == np.arange(num_classes) if one else labels).astype(np.float64)
    variances, projected = _directions(F, Y)
    outside = np.maximum((Y**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
    evidences = [
        _evidence(variances, projected[:, k] ** 2, outside[k], *F.shape) for k in range(num_classes)
    ]
    return float(np.mean(evidences) / len(F))


def _directions(F: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values (r,) of F (n, d), and U'Y (r, k), from the smaller Gram matrix."""
    n, d = F.shape
    values, vectors = np.linalg.eigh(F @ F.T if n <= d else F.T @ F)
    kept = values > values[-1] * max(n, d) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    if n <= d:
        return values, vectors.T @ Y
    return values, vectors.T @ (F.T @ Y) / np.sqrt(values)[:, None]


def _evidence(values: np.ndarray, inside: np.ndarray, outside: float, n: int, d: int) -> float:
    """Log evidence of one target. inside: (r,), its squared projection on each direction of the
    features. outside: the squared length of the rest."""
    # With as many directions as images the best ratio of alpha to beta may be 0 or infinite. At
    # these bounds the evidence is practically at its limit, and finite.
    bounds = FARTHEST[0] * values[0], FARTHEST[1] * values[-1]
    tiny = np.finfo(np.float64).tiny
    ratio = 1.0
    for _ in range(MAX_ITERATIONS):
        gamma, norm, residual = _at(ratio, values, inside, outside)
        alpha, beta = gamma / max(norm, tiny), (n - gamma) / max(residual, tiny)
        before, ratio = ratio, float(np.clip(alpha / max(beta, tiny), *bounds))
        if abs(ratio - before) <= TOLERANCE * before:
            break
    _, norm, residual = _at(ratio, values, inside, outside)
    beta = n / max(residual + ratio * norm, tiny)
    alpha = ratio * beta
    volume = np.log(alpha + beta * values).sum() + (d - len(values)) * np.log(alpha)
    return float((d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - volume - n) / 2)


def _at(
    ratio: float, values: np.ndarray, inside: np.ndarray, outside: float
) -> tuple[float, float, float]:
    """For alpha / beta: the weights' effective number, their squared norm, and the residual's."""
    gamma = (values / (values + ratio)).sum()
    norm = (values * inside / (values + ratio) ** 2).sum()
    residual = (inside * (ratio / (values + ratio)) ** 2).sum() + outside
    return float(gamma), float(norm), float(residual)
