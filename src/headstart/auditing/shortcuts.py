"""Shortcuts: whether the class can be told from a file's metadata alone, without the picture.

A network that is trained on such photos may learn the camera instead of the thing, and its test
score does not show it (Geirhos et al. 2020, "Shortcut learning in deep neural networks"). A small
decision tree predicts the class of held-out pictures from one field at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from headstart.auditing.facts import Facts
from headstart.auditing.records import Shortcut

# The share of the way from chance to certainty at which a field alarms, and the area under the ROC
# curve of a class. A field that the picture itself decides in part alarms only where it tells most.
SKILL, AUC = 0.3, 0.9
BY_THE_PICTURE = {"bytes per pixel": 0.6}
NEVER = frozenset({"mean colour"})  # what a picture shows may well decide its colour
NOTED = 0.02  # skill from which a field is worth a line, if that is no chance
FEW = 10  # pictures of a class from which its area under the curve counts


def fields_of(facts: Sequence[Facts]) -> dict[str, np.ndarray]:
    """float64 (n, columns) by field. Words become numbers: the commonest is 0."""
    width, height, size, quality = (
        np.array([getattr(f, name) for f in facts], np.float64)
        for name in ("width", "height", "bytes", "quality")
    )
    columns = {
        "width": width,
        "height": height,
        "aspect": width / height,
        "bytes per pixel": size / (width * height),
        "JPEG quality": quality,
        **{name: _coded([getattr(f, name) for f in facts])
           for name in ("format", "camera", "software")},
        "mean colour": np.array([(f.red, f.green, f.blue) for f in facts]),
    }  # fmt: skip
    return {name: column.reshape(len(facts), -1) for name, column in columns.items()}


def find_shortcuts(
    facts: Sequence[Facts], labels: np.ndarray, folds: np.ndarray, names: Sequence[str]
) -> list[Shortcut]:
    """How well each field predicts the class, the best first; fields that never vary are left out.

    labels, folds: int64 (n,).
    """
    found = []
    for field, column in fields_of(facts).items():
        if np.ptp(column, axis=0).max() > 0:
            shares = held_out_shares(column, labels, folds, len(names))
            found.append(_judged(field, shares, facts, labels, names))
    return sorted(found, key=lambda s: (s.level != "alarm", -s.accuracy))


def held_out_shares(
    column: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int
) -> np.ndarray:
    """float64 (n, classes): each picture's class probabilities, by a tree of the other folds.

    column: float64 (n, columns). All classes weigh the same, however many pictures they have.
    """
    shares = np.zeros((len(labels), classes))
    for fold in np.unique(folds):
        held = folds == fold
        tree = DecisionTreeClassifier(
            max_leaf_nodes=4 * classes, min_samples_leaf=3, class_weight="balanced", random_state=0
        ).fit(column[~held], labels[~held])
        shares[np.ix_(held, tree.classes_)] = tree.predict_proba(column[held])
    return shares


def balanced_accuracy(right: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean over the classes of the share of right answers, and its standard error.

    right: bool (n,). With one more of each answer, so that no class is taken as certain.
    """
    counts = np.bincount(labels)
    there = counts > 0
    hits = np.bincount(labels, weights=right)[there]
    smooth = (hits + 1) / (counts[there] + 2)
    error = np.sqrt(np.sum(smooth * (1 - smooth) / counts[there])) / there.sum()
    return float(np.mean(hits / counts[there])), float(error)


def _judged(
    field: str, shares: np.ndarray, facts: Sequence[Facts], labels: np.ndarray, names: Sequence[str]
) -> Shortcut:
    accuracy, error = balanced_accuracy(shares.argmax(axis=1) == labels, labels)
    counts = np.bincount(labels, minlength=len(names))
    chance = 1 / int((counts > 0).sum())
    areas = {
        label: float(roc_auc_score(labels == label, shares[:, label]))
        for label in np.flatnonzero((counts >= FEW) & (counts < len(labels))).tolist()
    }
    label = max(areas, key=lambda one: areas[one], default=0)
    area = areas.get(label, 0.5)
    low, high = max(accuracy - 1.96 * error, 0.0), min(accuracy + 1.96 * error, 1.0)
    return Shortcut(
        field, accuracy, (low, high), chance, _level(field, low, chance, area), names[label], area,
        _example(field, facts, labels == label, names[label]),
    )  # fmt: skip


def _level(field: str, low: float, chance: float, area: float) -> str:
    """low: the lower end of the accuracy's interval."""
    skill = (low - chance) / (1 - chance)
    if field not in NEVER:
        least = BY_THE_PICTURE.get(field, SKILL)
        one_class = area >= AUC and skill > NOTED and field not in BY_THE_PICTURE
        if skill >= least or one_class:
            return "alarm"
    return "note" if skill > NOTED else "none"


def _example(field: str, facts: Sequence[Facts], own: np.ndarray, name: str) -> str:
    """What is usual in the class that a field gives away, and in the others."""
    usual = [_usual(field, [f for f, mine in zip(facts, own, strict=True) if mine == side])
             for side in (True, False)]  # fmt: skip
    return f"usually {usual[0]} in {name}, {usual[1]} elsewhere"


def _usual(field: str, facts: Sequence[Facts]) -> str:
    if field in ("format", "camera", "software"):
        word, count = Counter(getattr(f, field) for f in facts).most_common(1)[0]
        return f"{word or 'none'} ({count / len(facts):.0%})"
    middle = np.median(fields_of(facts)[field], axis=0)
    if field == "mean colour":
        return "red {:.0f} green {:.0f} blue {:.0f}".format(*middle)
    return f"{middle[0]:.3g}"


def _coded(words: Sequence[str]) -> np.ndarray:
    numbers = {word: code for code, (word, _) in enumerate(Counter(words).most_common())}
    return np.array([numbers[word] for word in words], np.float64)
