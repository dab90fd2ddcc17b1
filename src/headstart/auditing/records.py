"""Records: what an audit has found, as plain values. Paths are relative to the folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from headstart.files import to_json
from headstart_predict.cards import Card, Shown


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that can be read. split: train, val or test; "" where the folder has no splits."""

    path: str
    label: str
    split: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that may be wrong. score: 0..1, how improbable the label is. likely: whether the
    suggested class is much more probable; see `labels.rank_shares`."""

    path: str
    label: str
    suggested: str
    score: float
    likely: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is not what it seems. readable: a readable one is used; the others are not."""

    path: str
    reason: str
    readable: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of one shot. kind: exact (but for a little noise) or near. contradicting:
    whether their labels differ. across: whether their splits differ. correlation: at most 1."""

    first: str
    second: str
    kind: str
    labels: tuple[str, str]
    splits: tuple[str, str]
    contradicting: bool
    across: bool
    mirrored: bool
    correlation: float


@dataclass(frozen=True, slots=True)
class Foreign:
    """A picture that resembles none of any class. score: see `foreign.distances`."""

    path: str
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Flaw:
    """A picture of poor quality. kind: blurred, dark, blank, tiny, enlarged or odd_shape. value:
    what was measured, as `quality.find_flaws` says."""

    path: str
    label: str
    kind: str
    value: float


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well one field of the files predicts the class.

    accuracy: balanced, of held-out pictures. interval: of 95 %. chance: of a guess. level: alarm
    (far above chance, and nothing of the picture itself), note (above chance, but it may be what is
    in the pictures) or none. label: the class that the field gives away most; auc: its area
    under the ROC curve against all others. example: values of two classes, in words.
    """

    field: str
    accuracy: float
    interval: tuple[float, float]
    chance: float
    level: str
    label: str
    auc: float
    example: str


@dataclass(frozen=True, repr=False)
class Audit(Shown):
    """What an audit has found.

    pictures: those that can be read, in the order of their paths. labels: those that
    are not nearly sure, the most suspicious first. wrong: lines about what would
    make a result wrong; with any, the command exits with 1. notes: of the folder's layout, and what
    the audit could not do.
    """

    folder: str
    backbone: str
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...] = field(metadata={"saved": False})
    labels: tuple[Suspect, ...]
    duplicates: tuple[Pair, ...]
    unreadable: tuple[Fault, ...]
    foreign: tuple[Foreign, ...]
    shortcuts: tuple[Shortcut, ...]
    quality: tuple[Flaw, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def likely(self) -> list[Suspect]:
        """The labels that are likely wrong, the worst first."""
        return [suspect for suspect in self.labels if suspect.likely]

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of pictures by split and class, and of findings."""
        splits: dict[str, dict[str, int]] = {}
        for picture in self.pictures:
            by_class = splits.setdefault(picture.split or "all", dict.fromkeys(self.class_names, 0))
            by_class[picture.label] += 1
        return {
            "pictures": len(self.pictures),
            "classes": splits,
            "unreadable": sum(not fault.readable for fault in self.unreadable),
            "wrong_suffix": sum(fault.readable for fault in self.unreadable),
            "likely_wrong_labels": len(self.likely),
            "duplicates": len(self.duplicates),
            "duplicates_between_splits": sum(pair.across for pair in self.duplicates),
            "contradicting_labels": sum(pair.contradicting for pair in self.duplicates),
            "foreign": len(self.foreign),
            "quality": dict(Counter(flaw.kind for flaw in self.quality)),
        }

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        plain: dict[str, Any] = to_json(self)
        return {**plain, "counts": self.counts}

    def _card(self) -> Card:
        counts = self.counts
        facts = [(name.replace("_", " "), f"{counts[name]:,}") for name in counts
                 if isinstance(counts[name], int)]  # fmt: skip
        facts += [("wrong", line) for line in self.wrong]
        rows = [[s.path, s.label, s.suggested, f"{s.score:.2f}"] for s in self.likely]
        return Card(f"Audit of {self.folder}", facts, ("path", "label", "suggested", "score"), rows)
