"""Pictures: a run's thumbnails with its answers, each stored in the page once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from headstart.evaluation.notable import confident_mistakes
from headstart.report.contenders import optional
from headstart.rundir.run import Run
from headstart.text.captions import captions, shorten_middle

SAMPLES, TILES, SALIENCIES = 30, 12, 8  # of a kind in one section
LISTED = 100  # wrong answers that a section names
CAPTION = 24  # characters of a class's name under a picture
_FILE = 20  # of a file's name
_LARGEST_SIDE = 96  # of a picture in the page, pixels

Arrays = Mapping[str, np.ndarray]


def class_names(run: Run, classes: int = 0) -> list[str]:
    """The run's class names, or numbers where it did not get to know them."""
    known = optional(lambda: run.class_names) or []
    return known + [str(k) for k in range(len(known), classes)]


def samples(run: Run) -> list[dict[str, str]]:
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
        {"name": _name(names, labels[k]), "caption": _name(short, labels[k]), "id": str(ids[k]),
         "uri": data_uri(pictures["sample_images"][k])}
        for k in chosen
    ]  # fmt: skip


def answers(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Random test images with their answers, in class order."""
    return _tiles(run.pictures, "prediction", names, by="labels")


def mistakes(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of."""
    return _tiles(run.pictures, "mistake", names, by="confidence")[:TILES]


def wrong_answers(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """The wrong answers on test by name, the surest first: `lines` up to LISTED, `count` of all."""
    test = optional(lambda: run.predictions("test"))
    if test is None:
        return {"lines": [], "count": 0}
    served = test.tempered(optional(lambda: run.metrics.temperature) or 1.0)
    lines = [
        {"id": str(served.ids[row]), "true": _name(names, served.labels[row]),
         "predicted": _name(names, served.predicted[row]),
         "confidence": float(served.confidence[row])}
        for row in confident_mistakes(served, LISTED)
    ]  # fmt: skip
    return {"lines": lines, "count": int((~served.correct).sum())}


def uncertain(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """The answers with the least margin between the two best classes, as they were saved."""
    return _tiles(run.pictures, "uncertain", names)[:TILES]


def saliency(run: Run, names: Sequence[str]) -> dict[str, Any] | None:
    """Pictures with what the answer rests on, beside the same pictures without; None of none."""
    arrays = run.pictures
    tiles = _tiles(arrays, "saliency", names)[:SALIENCIES]
    if not tiles:
        return None
    for row, tile in enumerate(tiles):
        tile["plain_uri"] = data_uri(arrays["saliency_plain"][row])
    return {"tiles": tiles, "method": str(arrays["saliency_method"])}


def confused_pairs(run: Run, names: Sequence[str], confusion: np.ndarray) -> list[dict[str, Any]]:
    """Pictures of the most confused pairs of classes, with how often each was confused."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for tile in _tiles(run.pictures, "pair", names):
        true, predicted = tile["true"], tile["predicted"]
        group = found.setdefault((true, predicted), {"true": true, "predicted": predicted})
        group.setdefault("tiles", []).append(tile)
        if {true, predicted} <= set(names) and len(confusion) == len(names):
            row, column = names.index(true), names.index(predicted)
            group["count"] = int(confusion[row, column])
            group["of"] = int(confusion[row].sum())
    return [group for group in found.values() if group["true"] != group["predicted"]]


def data_uri(pixels: np.ndarray) -> str:
    """A picture as a data URI: PNG while it is tiny and every pixel counts, JPEG above."""
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    if max(image.size) <= 40:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def share_pictures(sections: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give every tile's pictures an id, and return the pictures by it.

    The runs of a study answer for the same images, so the page holds each picture once.
    """
    known: dict[str, str] = {}

    def store(uri: str) -> str:
        return known.setdefault(uri, f"picture-{len(known) + 1}")

    for section in sections:
        for tile in _every_tile(section):
            tile["picture"] = store(tile["uri"])
            if "plain_uri" in tile:
                tile["plain"] = store(tile["plain_uri"])
    return {name: uri for uri, name in known.items()}


def _every_tile(section: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("answers", "mistakes", "uncertain"):
        yield from section[kind]
    for group in section["pair_pictures"]:
        yield from group["tiles"]
    yield from (section["saliency"] or {}).get("tiles", [])


def _tiles(
    arrays: Arrays, kind: str, names: Sequence[str], by: str | None = None
) -> list[dict[str, Any]]:
    """The saved pictures of a kind with their answers; `by` labels rising or confidence falling."""
    if f"{kind}_ids" not in arrays:
        return []
    order = np.arange(len(arrays[f"{kind}_ids"]))
    if by is not None:
        given = arrays[f"{kind}_{by}"]
        order = np.argsort(-given if by == "confidence" else given, kind="stable")
    return [_tile(arrays, kind, row, names) for row in order.tolist()]


def _tile(arrays: Arrays, kind: str, row: int, names: Sequence[str]) -> dict[str, Any]:
    true, predicted = (arrays[f"{kind}_{part}"][row] for part in ("labels", "predicted"))
    name = str(arrays[f"{kind}_ids"][row])
    return {
        "id": name,
        "file": shorten_middle(name.rpartition("/")[2], _FILE),
        "uri": data_uri(arrays[f"{kind}_images"][row]),
        "true": _name(names, true),
        "predicted": _name(names, predicted),
        "right": bool(true == predicted),
        "confidence": float(arrays[f"{kind}_confidence"][row]),
    }


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)
