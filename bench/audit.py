"""How many planted faults an audit finds: wrong labels, and pictures of another set.

    python bench/audit.py FOLDER... [--cifar100 N] [--seeds 5] [--backbone NAME] [--cleanlab DIR]

Each folder of photos, the embedded sample, and N training images of CIFAR-100 (from HEADSTART_DATA)
are seen once by the backbone. Then labels are changed at random, 3 % and 10 %, with several seeds,
and ranked. Precision is of the first 50 candidates; recall is the share of the planted among twice
as many candidates. With --cleanlab, a folder into which `pip install --target DIR cleanlab` has
installed it, its rankings of the same held-out probabilities are beside ours. Foreign pictures are
2 % of another of these sets that is seen at the same size, with labels at random; the area under
the ROC curve is theirs against all others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from headstart.auditing.audit import BACKBONE, look
from headstart.auditing.folder import find_same, open_pictures, useful_side
from headstart.auditing.foreign import distances
from headstart.auditing.labels import grouped_folds, held_out, rank_shares, softmax, votes
from headstart.data.loading import open_source
from headstart.machine.progress import TerminalReporter
from headstart.machine.runtime import create_runtime
from headstart.models.names import canonical_name
from headstart.models.weights import locate_weights
from headstart.specs import DataSpec

SHARES, FOREIGN, FIRST = (0.03, 0.10), 0.02, 50


class Seen(NamedTuple):
    """A data set as the audit sees it. features: float32 (n, d); labels, groups: int64 (n,); keys:
    uint64 (n,)."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    groups: np.ndarray
    classes: int
    side: int  # pixels, at which it was seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--cifar100", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--cleanlab", type=Path)
    asked = parser.parse_args()
    if asked.cleanlab:
        sys.path.append(str(asked.cleanlab))
    with tempfile.TemporaryDirectory() as scratch:
        folders = [*asked.folders, *exported(Path(scratch), asked.cifar100)]
        sets = [see(folder, asked.backbone) for folder in folders]
    for seen in sets:
        for share in SHARES:
            tell_labels(seen, share, asked.seeds, bool(asked.cleanlab))
    for seen in sets:
        for other in sets:
            if other is not seen and other.side == seen.side:
                areas = [foreign_area(seen, other, seed) for seed in range(asked.seeds)]
                print(f"{seen.name:<14} {FOREIGN:.0%} of {other.name:<14} {spread(areas)}")


def exported(scratch: Path, cifar100: int) -> Iterator[Path]:
    """The embedded sample, and a part of CIFAR-100, as folders of PNGs."""
    wanted = {"cifar10-mini": None} | ({"cifar100": cifar100} if cifar100 else {})
    for name, limit in wanted.items():
        source = open_source(DataSpec(source=name))
        rows = np.random.default_rng(0).permutation(len(source.train))[:limit]
        images = source.train.pick(np.sort(rows))
        for row in range(len(images)):
            folder = scratch / name / source.class_names[images.labels[row]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.read(np.array([row]))[0]).save(folder / f"{row:05}.png")
        yield scratch / name


def see(folder: Path, backbone: str) -> Seen:
    reporter = TerminalReporter()
    weights = locate_weights(canonical_name(backbone), say=reporter.say)
    own = weights.preprocess.size
    source, images, pictures = open_pictures(f"folder:{folder}", own, reporter.transfer)
    side = min(own, useful_side(images))
    _, groups = find_same(images, pictures)
    features = look(images, weights, create_runtime("cpu"), reporter)
    classes = len(source.class_names)
    return Seen(folder.name, features, images.labels, images.keys, groups, classes, side)


def tell_labels(seen: Seen, share: float, seeds: int, peer: bool) -> None:
    """Print what is found of planted wrong labels, by ours and by the peer's rankings."""
    found: dict[str, list[tuple[float, float]]] = {}
    likely = []
    for seed in range(seeds):
        labels, planted = plant(seen.labels, share, seen.classes, seed)
        folds = grouped_folds(labels, seen.keys, seen.groups)
        shares = softmax(held_out(seen.features, labels, folds, seen.classes))
        near = votes(seen.features, labels, seen.groups, seen.classes)
        ranking = rank_shares(shares, near, labels)
        likely.append((ranking.likely.sum(), planted[ranking.likely].mean()))
        found.setdefault("headstart", []).append(judge(ranking.order, planted))
        if peer:
            for name, rank in peer_rankings().items():
                found.setdefault(name, []).append(judge(rank(labels, shares), planted))
    count, n = round(share * len(seen.labels)), len(seen.labels)
    called, right = mean(c for c, _ in likely), mean(p for _, p in likely)
    print(f"{seen.name}, {share:.0%} wrong: {count} of {n}")
    print(f"  called likely wrong: {called:.0f}, of which planted {right:.1%}")
    for name, scores in found.items():  # fewer than FIRST may be planted, or returned
        first, all_found = (spread([score[i] for score in scores]) for i in (0, 1))
        print(f"  {name:<32} precision {first}  recall {all_found}")


def plant(
    labels: np.ndarray, share: float, classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is changed to another class at random, and which these are."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    changed, planted = labels.copy(), np.zeros(len(labels), bool)
    changed[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    planted[rows] = True
    return changed, planted


def judge(order: np.ndarray, planted: np.ndarray) -> tuple[float, float]:
    """Precision of the first candidates, and recall among twice as many as were planted."""
    count = int(planted.sum())
    return float(planted[order[:FIRST]].sum() / FIRST), float(
        planted[order[: 2 * count]].sum() / count
    )


def peer_rankings() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """cleanlab's rankings of labels and held-out probabilities: rows, the worst first."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    def ranked(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda labels, shares: np.argsort(
            get_label_quality_scores(labels, shares, method=method), kind="stable"
        )

    methods = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    return {
        **{f"cleanlab {method}": ranked(method) for method in methods},
        "cleanlab find_label_issues": lambda labels, shares: find_label_issues(
            labels, shares, return_indices_ranked_by="self_confidence"
        ),
    }


def foreign_area(seen: Seen, other: Seen, seed: int) -> float:
    """The area under the ROC curve of foreign pictures against all others."""
    rng = np.random.default_rng(seed)
    count = max(round(FOREIGN * len(seen.labels)), 3)
    rows = rng.permutation(len(other.labels))[:count]
    features = np.concatenate([seen.features, other.features[rows]])
    labels = np.concatenate([seen.labels, rng.integers(0, seen.classes, count)])
    groups = np.concatenate([seen.groups, seen.groups.max() + 1 + other.groups[rows]])
    foreign = np.arange(len(labels)) >= len(seen.labels)
    return float(roc_auc_score(foreign, distances(features, labels, groups)))


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
