"""Labels that are likely to be wrong: from held-out answers of a linear head, and from neighbours.

The basis is confident learning (Northcutt, Jiang & Chuang 2021): every picture is answered by a
head that was fitted without it, and a label is suspect where the head is sure of another class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from headstart.auditing.neighbours import nearest, unit
from headstart.machine.runtime import full_float32
from headstart.training.folds import assign_folds, cross_fit
from headstart.training.solver import Table

NEIGHBOURS = 10
WEIGHT = 0.2  # of the neighbours; of all tried it is never much worse than the heads alone
# Wrong labels want strong penalties; the weak end of the usual path takes most of its time.
L2_PATH = (1.0, 0.1, 0.03, 0.01, 0.001)
FEWEST = 4  # pictures of a class from which its labels are judged
LIKELY = 0.5  # by how much another class is more probable than the label


class Ranking(NamedTuple):
    """Pictures by suspicion. order: int64 (n,), the most suspicious first. score: float64 (n,),
    0..1, of each picture. suggested: int64 (n,), the likeliest other class. likely: bool (n,),
    the pictures of which another class is much more probable."""

    order: np.ndarray
    score: np.ndarray
    suggested: np.ndarray
    likely: np.ndarray


def grouped_folds(
    labels: np.ndarray, keys: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray:
    """int64 (n,): a fold for each picture; a group, such as duplicates, is in one fold.

    labels, groups: int64 (n,); keys: uint64 (n,). The first picture of each group is assigned by
    `assign_folds`, which spreads classes evenly.
    """
    _, firsts, member = np.unique(groups, return_index=True, return_inverse=True)
    return assign_folds(labels[firsts], keys[firsts], seed)[member]


def rank_labels(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, groups: np.ndarray, classes: int
) -> Ranking:
    """Rank labels by suspicion. features: float32 (n, d); labels, folds, groups: int64 (n,)."""
    heads = softmax(held_out(features, labels, folds, classes))
    return rank_shares(heads, votes(features, labels, groups, classes), labels)


def rank_shares(heads: np.ndarray, neighbours: np.ndarray, labels: np.ndarray) -> Ranking:
    """Rank by both evidences: class probabilities of the heads, and of the neighbours, float64
    (n, classes), whose mean has the weights 1 - WEIGHT and WEIGHT.

    The score is one minus the probability of the label (self-confidence, in the terms of confident
    learning). A class of fewer than FEWEST pictures is not judged: a score of 0. docs/log.md has
    the other rankings that were tried.
    """
    shares, rows = (1 - WEIGHT) * heads + WEIGHT * neighbours, np.arange(len(labels))
    own = shares[rows, labels]
    others = shares.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    counts = np.bincount(labels, minlength=shares.shape[1])
    known = counts[labels] >= FEWEST
    score = np.where(known, 1 - own, 0.0).clip(0, 1)
    likely = known & (others[rows, suggested] - own >= LIKELY)
    return Ranking(np.argsort(-score, kind="stable"), score, suggested, likely)


def held_out(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int
) -> np.ndarray:
    """float64 (n, classes): logits of each picture, by a solved head of the other folds."""
    table = Table(torch.from_numpy(features), torch.tensor(labels))
    with full_float32():
        return cross_fit(table, folds, classes, l2_path=L2_PATH).logits.double().numpy()


def votes(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """float64 (n, classes): the shares of the classes among the NEIGHBOURS nearest pictures of
    other groups, with one more neighbour that is of all classes alike."""
    found, cosines = nearest(unit(features), groups, NEIGHBOURS)
    counts = np.full((len(labels), classes), 1 / classes)
    for column, cosine in zip(found.T, cosines.T, strict=True):
        counts[np.arange(len(labels)), labels[column]] += np.isfinite(cosine)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 (n, k): each row as probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
