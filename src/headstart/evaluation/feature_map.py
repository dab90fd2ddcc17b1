"""Feature map: images placed in the plane so that images with similar features are close."""

from __future__ import annotations

import numpy as np

COMPONENTS = 50
PERPLEXITY = 30.0
# With fewer rows a neighbourhood of PERPLEXITY would be nearly the whole set: PCA alone.
FEWEST = 100


def lay_out(features: np.ndarray) -> tuple[np.ndarray, str]:
    """float32 (n, 2) for features (n, d), and the name of the method.

    PCA to 50 dimensions, then t-SNE (van der Maaten and Hinton 2008), which starts from the first
    two of them, so that the large shape comes from the data and not from chance. Few rows get PCA
    alone. The same features give the same map. Neighbours are meaningful; distances between groups
    and sizes of groups are not.
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
