"""LogME against an implementation of its own, dense and from the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.evaluation.transferability import logme

CLASSES = 5


def dense_logme(F: np.ndarray, labels: np.ndarray) -> float:
    """You et al. 2021, equations 2 to 4: A = alpha I + beta F'F, m = beta A^-1 F'y, and
    gamma = sum of beta s / (alpha + beta s) over the eigenvalues s of F'F."""
    n, d = F.shape
    evidences = []
    for k in range(CLASSES):
        y = (labels == k).astype(float)
        alpha = beta = 1.0
        for _ in range(5000):
            A = alpha * np.eye(d) + beta * F.T @ F
            m = beta * np.linalg.solve(A, F.T @ y)
            shares = beta * np.linalg.eigvalsh(F.T @ F)
            gamma = (shares / (alpha + shares)).sum()
            before = alpha / beta
            alpha, beta = gamma / (m @ m), (n - gamma) / ((F @ m - y) @ (F @ m - y))
            if abs(alpha / beta - before) < 1e-12 * before:
                break
        A = alpha * np.eye(d) + beta * F.T @ F
        m = beta * np.linalg.solve(A, F.T @ y)
        error = F @ m - y
        evidences.append(
            n / 2 * np.log(beta)
            + d / 2 * np.log(alpha)
            - n / 2 * np.log(2 * np.pi)
            - beta / 2 * error @ error
            - alpha / 2 * m @ m
            - np.linalg.slogdet(A)[1] / 2
        )
    return float(np.mean(evidences) / n)


def features(n: int, d: int, rank: int, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features of a rank, and labels that some of their directions know of."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    hidden = rng.normal(size=(n, rank))
    hidden[:, :CLASSES] += signal * (labels[:, None] == np.arange(CLASSES))
    return hidden @ rng.normal(size=(rank, d)), labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "d", "rank"), [(80, 12, 12), (200, 40, 40), (50, 120, 15)])
def test_it_agrees_with_the_papers_equations(n: int, d: int, rank: int, seed: int) -> None:
    F, labels = features(n, d, rank, 1.5, seed)
    assert logme(F, labels, CLASSES) == pytest.approx(dense_logme(F, labels), abs=1e-6)


def test_informative_features_score_higher() -> None:
    scores = [logme(*features(120, 30, 30, signal, 0), CLASSES) for signal in (0.0, 1.0, 3.0)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.1


def test_the_scale_of_the_features_says_nothing() -> None:
    F, labels = features(100, 20, 20, 1.0, 0)
    assert logme(1000 * F, labels, CLASSES) == pytest.approx(logme(F, labels, CLASSES), abs=1e-6)


def test_more_directions_than_images_stay_finite() -> None:
    """Where the features can fit anything, the evidence has no inner optimum."""
    for signal in (0.0, 3.0):
        assert np.isfinite(logme(*features(40, 200, 200, signal, 0), CLASSES))
