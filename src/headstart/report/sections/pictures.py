"""Pictures: a run's thumbnails with its answers, each stored in the page once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from headstart.evaluation.notable import confident_mistakes
from headstart.report.contenders import optional
from headstart.rundir.run import Run
from headstart.text.captions import captions
from headstart_predict.plain import shorten_middle

SAMPLES, TILES, MOST_HEAT_MAPS = 30, 12, 8  # of a kind in one section
LISTED = 100  # wrong answers that a section names
CAPTION = 24  # characters of a class's name under a picture
_FILE = 20  # of a file's name
_LARGEST_SIDE = 96  # of a picture in the page, pixels

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled picture of the data. caption: its class's name, short. uri: a data URI."""

    name: str
    caption: str
    id: str
    uri: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A test image's answer. true, predicted: names of classes. confidence: a fraction."""

    id: str
    true: str
    predicted: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Tile(Answered):
    """An answer with its picture as a data URI. file: the end of its id, short."""

    file: str
    uri: str
    right: bool
    plain_uri: str | None = None  # of the image itself, where `uri` shows what the answer rests on

    @property
    def uris(self) -> list[str]:
        """Of all that it shows."""
        return [self.uri] if self.plain_uri is None else [self.uri, self.plain_uri]


@dataclass(frozen=True, slots=True)
class WrongAnswers:
    """The wrong answers on test: `lines` has the surest of them, `count` is of all."""

    lines: list[Answered]
    count: int


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """Pictures with what the answer rests on, and how that was found."""

    tiles: list[Tile]
    method: str


@dataclass(frozen=True, slots=True)
class PairTiles:
    """Pictures of one class that are taken for another. count, of: how many of its test images
    are; None where the confusion does not tell."""

    true: str
    predicted: str
    tiles: list[Tile]
    count: int | None
    of: int | None


def class_names(run: Run, classes: int = 0) -> list[str]:
    """The run's class names, or numbers where it did not get to know them."""
    known = optional(lambda: run.class_names) or []
    return known + [str(k) for k in range(len(known), classes)]


def samples(run: Run) -> list[Sample]:
    """A few labelled pictures of the data, the same number of each class, in class order."""
    pictures = run.pictures
    if "sample_images" not in pictures:
        return []
    labels = pictures["sample_labels"]
    turn = np.array([np.sum(labels[:k] == label) for k, label in enumerate(labels)])
    chosen = np.lexsort((labels, turn))[:SAMPLES]
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    names = class_names(run)
    short = captions(names, CAPTION)
    ids = pictures["sample_ids"]
    return [
        Sample(
            name=_name(names, labels[k]),
            caption=_name(short, labels[k]),
            id=str(ids[k]),
            uri=data_uri(pictures["sample_images"][k]),
        )
        for k in chosen
    ]


def answers(run: Run, names: Sequence[str]) -> list[Tile]:
    """Random test images with their answers, in class order."""
    return _tiles(run.pictures, "prediction", names, by="labels")


def mistakes(run: Run, names: Sequence[str]) -> list[Tile]:
    """The wrong answers that the model was surest of."""
    return _tiles(run.pictures, "mistake", names, by="confidence")[:TILES]


def wrong_answers(run: Run, names: Sequence[str]) -> WrongAnswers:
    """By name, the surest first, up to LISTED."""
    test = optional(lambda: run.predictions("test"))
    if test is None:
        return WrongAnswers([], 0)
    served = test.tempered(optional(lambda: run.metrics.temperature) or 1.0)
    lines = [
        Answered(
            id=str(served.ids[row]),
            true=_name(names, served.labels[row]),
            predicted=_name(names, served.predicted[row]),
            confidence=float(served.confidence[row]),
        )
        for row in confident_mistakes(served, LISTED)
    ]
    return WrongAnswers(lines, int((~served.correct).sum()))


def uncertain(run: Run, names: Sequence[str]) -> list[Tile]:
    """The answers with the least margin between the two best classes, as they were saved."""
    return _tiles(run.pictures, "uncertain", names)[:TILES]


def saliency(run: Run, names: Sequence[str]) -> HeatMaps | None:
    """Beside each picture the same one without; None of none."""
    arrays = run.pictures
    tiles = _tiles(arrays, "saliency", names)[:MOST_HEAT_MAPS]
    if not tiles:
        return None
    plain = [
        replace(tile, plain_uri=data_uri(arrays["saliency_plain"][row]))
        for row, tile in enumerate(tiles)
    ]
    return HeatMaps(plain, str(arrays["saliency_method"]))


def confused_pairs(run: Run, names: Sequence[str], confusion: np.ndarray) -> list[PairTiles]:
    """Pictures of the most confused pairs of classes, with how often each was confused."""
    found: dict[tuple[str, str], list[Tile]] = {}
    for tile in _tiles(run.pictures, "pair", names):
        found.setdefault((tile.true, tile.predicted), []).append(tile)
    groups = []
    for (true, predicted), tiles in found.items():
        count, of = None, None
        if {true, predicted} <= set(names) and len(confusion) == len(names):
            row, column = names.index(true), names.index(predicted)
            count, of = int(confusion[row, column]), int(confusion[row].sum())
        if true != predicted:
            groups.append(PairTiles(true, predicted, tiles, count, of))
    return groups


def data_uri(pixels: np.ndarray, most: int = _LARGEST_SIDE) -> str:
    """A picture as a data URI: PNG while it is tiny and every pixel counts, JPEG above.

    most: pixels of its longer side; a larger one is shrunk.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    if max(image.size) <= 40:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def share_pictures(tiles: Iterable[Tile]) -> dict[str, str]:
    """An id for each picture of the tiles, by its data URI.

    The runs of a study answer for the same images, so the page holds each picture once.
    """
    shown = dict.fromkeys(uri for tile in tiles for uri in tile.uris)
    return {uri: f"picture-{number}" for number, uri in enumerate(shown, start=1)}


def _tiles(arrays: Arrays, kind: str, names: Sequence[str], by: str | None = None) -> list[Tile]:
    """The saved pictures of a kind with their answers; `by` labels rising or confidence falling."""
    if f"{kind}_ids" not in arrays:
        return []
    order = np.arange(len(arrays[f"{kind}_ids"]))
    if by is not None:
        given = arrays[f"{kind}_{by}"]
        order = np.argsort(-given if by == "confidence" else given, kind="stable")
    return [_tile(arrays, kind, row, names) for row in order.tolist()]


def _tile(arrays: Arrays, kind: str, row: int, names: Sequence[str]) -> Tile:
    true, predicted = (arrays[f"{kind}_{part}"][row] for part in ("labels", "predicted"))
    name = str(arrays[f"{kind}_ids"][row])
    return Tile(
        id=name,
        true=_name(names, true),
        predicted=_name(names, predicted),
        confidence=float(arrays[f"{kind}_confidence"][row]),
        file=shorten_middle(name.rpartition("/")[2], _FILE),
        uri=data_uri(arrays[f"{kind}_images"][row]),
        right=bool(true == predicted),
    )


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)
