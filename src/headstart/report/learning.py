"""Label efficiency: accuracy against labelled images a class, all backbones in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from headstart.report import formats
from headstart.report.contenders import Contender
from headstart.report.series import Band, draw, key
from headstart.report.svg import BOTTOM, LEFT, RIGHT, TOP, Scale, element, frame, in_percent, panel


def describe_learning(contenders: Sequence[Contender]) -> dict[str, Any] | None:
    """The plot, and its numbers as a table; None where no run has frozen features.

    Configurations whose frozen features are the same share a line. Curves on validation are shown
    only where there is none on test: the two are not to be compared.
    """
    curves = [(rank, c.name, c.metric("label_efficiency")) for rank, c in enumerate(contenders)]
    curves = [curve for curve in curves if curve[2].get("points")]
    splits = {block.get("split", "test") for _, _, block in curves}
    split = "test" if "test" in splits else "val"
    found: dict[str, tuple[int, list[str], dict[str, Any]]] = {}
    for rank, name, block in curves:
        if block.get("split", "test") == split:
            sized = {**block, "points": _sized(block["points"])}
            found.setdefault(str(sized["points"]), (rank, [], sized))[1].append(name)
    if not found:
        return None
    bands, rows = [], []
    blocks = [block for _, _, block in found.values()]
    sizes = sorted({p["per_class"] for block in blocks for p in block["points"]})
    for style, owners, block in found.values():
        name = formats.join_words(owners)
        bands.append(_band(name, style, block["points"]))
        known = {p["per_class"]: p for p in block["points"]}
        rows.append({"name": name, "key": key(style), "cells": [known.get(n) for n in sizes]})
    first = blocks[0]
    notes = dict.fromkeys(str(block["note"]) for block in blocks if block.get("note"))
    return {
        "svg": learning_panel(bands),
        "sizes": sizes,
        "rows": rows,
        "n": first.get("n"),
        "split": split,
        "draws": max(p.get("draws", 1) for p in first["points"]),
        "notes": list(notes),
    }


def _sized(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points with their images a class, rounded for that of all images."""
    known = [point for point in points if point["per_class"]]
    classes = known[0]["images"] / known[0]["per_class"] if known else 1
    return [
        {**point, "per_class": point["per_class"] or round(point["images"] / classes)}
        for point in points
    ]


def _band(name: str, style: int, points: Sequence[dict[str, Any]]) -> Band:
    ordered = sorted(points, key=lambda p: p["per_class"])
    return Band(
        name,
        style,
        [(p["per_class"], 100 * p["accuracy"]) for p in ordered],
        [
            f"{name}, {p['per_class']} a class: {formats.percent(p['accuracy'])} "
            f"({100 * p['low']:.1f} to {100 * p['high']:.1f})"
            for p in ordered
        ],
        [(100 * p["low"], 100 * p["high"]) for p in ordered],
    )


def learning_panel(bands: Sequence[Band]) -> Markup:
    """Accuracy in percent over images a class on a log axis."""
    xs = [px for band in bands for px, _ in band.points]
    ys = [bound for band in bands for pair in band.ranges for bound in pair]
    pad = max(2.0, 0.06 * (max(ys) - min(ys)))
    spread = 1.12 if max(xs) > min(xs) else 2.0
    x = Scale(min(xs) / spread, max(xs) * spread, LEFT, RIGHT, log=True)
    y = Scale(max(0.0, min(ys) - pad), min(100.0, max(ys) + pad), BOTTOM, TOP)
    ticks = sorted(set(xs))
    marks = frame(x, y, x_label="labelled images a class", y_format=in_percent, x_ticks=ticks)
    marks += [mark for band in reversed(bands) for mark in draw(band, x, y)]
    names = ", ".join(band.name for band in bands)
    return panel([*marks, element("desc", names)], f"Accuracy by images a class: {names}")
