"""Feature map: what a model makes of images, laid out in the plane so that like lies near like."""

from __future__ import annotations

import numpy as np

COMPONENTS = 50
PERPLEXITY = 30.0
# With fewer rows a neighbourhood of PERPLEXITY is the whole set, and distances are all there is.
FEWEST = 100


def lay_out(features: np.ndarray) -> tuple[np.ndarray, str]:
    """float32 (n, 2) for features (n, d), and the name of the method.

    PCA to 50 dimensions, then t-SNE (van der Maaten and Hinton 2008) from the first two of them, so
    that the large shape is that of the data and not of chance; few rows get PCA alone. The same
    features give the same map. Which points are neighbours means something; distances between
    groups, and their sizes, do not.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(features)
    if n < 3 or (np.ptp(features, axis=0) > 0).sum() < 2:
        return np.zeros((n, 2), np.float32), "none: too few images or features that differ"
    kept = min(COMPONENTS, n - 1, features.shape[1])
    reduced = PCA(kept, random_state=0).fit_transform(features.astype(np.float32))
    if n < FEWEST:
        return reduced[:, :2].astype(np.float32), "PCA"
    tsne = TSNE(2, perplexity=PERPLEXITY, init="pca", random_state=0)
    xy = tsne.fit_transform(reduced)
    return xy.astype(np.float32), f"PCA to {kept} dimensions, then t-SNE (perplexity 30)"
