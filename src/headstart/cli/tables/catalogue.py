"""The output of `models` and `recipes`: backbones, and the shipped recipes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headstart.cli.tables.common import NONE
from headstart_predict.cards import grid

if TYPE_CHECKING:
    from headstart.models.catalogue import BackboneInfo


def format_backbones(backbones: Sequence[BackboneInfo]) -> str:
    header = ["backbone", "M params", "G MACs", "at px", "depth", "MB", "ImageNet top-1", "weights"]
    rows = [
        [
            b.name,
            f"{b.parameters / 1e6:.2f}",
            f"{b.macs / 1e9:.2f}",
            str(b.size_px),
            str(b.depth),
            f"{b.file_mb:.0f}",
            NONE if b.imagenet_top1 is None else f"{b.imagenet_top1:.1f} %",
            b.providers,
        ]
        for b in backbones
    ]
    return grid(header, rows, "lrrrrrrl")


def format_recipes(shipped: Mapping[str, str]) -> str:
    rows = []
    for name, text in shipped.items():
        raw = tomllib.loads(text)
        kind = "study" if "grid" in raw or "variants" in raw else "recipe"
        first = text.partition("\n")[0]
        rows.append([name, kind, first.removeprefix("#").strip() if first[:1] == "#" else ""])
    return grid(["name", "kind", "what it does"], rows)
