"""How the photos of a study became squares, where that was chosen by held-out answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from headstart.comparison.records import Comparison
from headstart.errors import RunError
from headstart.files import read_json, write_json
from headstart_predict.framing import FRAMINGS, Framing

FILE = "framing.json"


@dataclass(frozen=True, slots=True)
class FramingChoice:
    """How photos that are not square become squares, chosen by linear probes of frozen features.

    cut: the median share of a photo that is outside its centre square. images: held-out training
    images that each probe was asked. scores: by framing, the metric there. p_value: of the better
    of pad and squash against crop, one-sided. seconds: what the three probes took.
    """

    chosen: Framing
    cut: float
    backbone: str
    images: int
    metric: str  # accuracy, balanced accuracy or mAP
    scores: dict[str, float]
    p_value: float
    seconds: float

    @property
    def text(self) -> str:
        scores = ", ".join(f"{name} {100 * self.scores[name]:.1f} %" for name in FRAMINGS)
        alike = ", which does not tell another one from crop" if self.chosen == "crop" else ""
        return (
            f"{self.chosen}: the centre square cuts off {self.cut:.0%} of the median photo; "
            f"{self.metric} on {self.images:,} held-out training images, a linear head on frozen "
            f"{self.backbone}: {scores}{alike}"
        )


def write_framing(choice: FramingChoice, folder: Path) -> None:
    write_json(folder / FILE, choice)


def read_framing(folder: Path) -> FramingChoice | None:
    """None where nothing was chosen. Raises RunError of a damaged file."""
    try:
        found = read_json(folder / FILE, FramingChoice)
    except FileNotFoundError:
        return None
    if found.chosen not in FRAMINGS or found.scores.keys() != set(FRAMINGS):
        raise RunError(f"{folder / FILE}: damaged: it does not name {', '.join(FRAMINGS)}")
    return found


def with_framing(comparison: Comparison, folder: Path) -> Comparison:
    """The comparison of the study in `folder`, whose protocol says how the framing was chosen, if
    that was done."""
    choice = read_framing(folder)
    if choice is None:
        return comparison
    return replace(comparison, protocol={**comparison.protocol, "framing": choice.text})
