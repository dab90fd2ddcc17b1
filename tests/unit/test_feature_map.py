"""The feature map keeps neighbours together, is the same each time, and says what it is."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from headstart.evaluation.feature_map import lay_out


def clusters(n: int, classes: int = 5, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width) around a centre for each class, and the classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + 0.7 * rng.normal(size=(n, width))).astype(np.float32), labels


@pytest.mark.parametrize(("n", "method"), [(200, "t-SNE"), (60, "PCA")])
def test_like_lies_near_like_and_the_same_each_time(n: int, method: str) -> None:
    features, labels = clusters(n)
    xy, said = lay_out(features)
    assert said.startswith("PCA") and said.endswith(("PCA", "(perplexity 30)"))
    assert method in said
    assert xy.shape == (n, 2)
    assert xy.dtype == np.float32 and np.isfinite(xy).all()
    near = KNeighborsClassifier(5).fit(xy[::2], labels[::2])
    assert near.score(xy[1::2], labels[1::2]) > 0.9
    assert np.array_equal(lay_out(features)[0], xy)


@pytest.mark.parametrize(
    "features",
    [np.ones((40, 8)), np.ones((2, 8)), np.zeros((0, 8)), np.arange(30.0).reshape(30, 1)],
    ids=["equal", "two", "none", "one number"],
)
def test_features_without_spread_are_no_error(features: np.ndarray) -> None:
    xy, said = lay_out(features.astype(np.float32))
    assert xy.shape == (len(features), 2)
    assert not xy.any()
    assert said.startswith("none")
